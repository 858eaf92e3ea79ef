"""``/openapi.json`` and the pages that show it, with their viewers: a browser needs nothing from another host.

Knows of the document only where it lies.
"""

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any

import orjson

from services.gateway.apis.exchange import header
from services.gateway.edge.asgi import App, Header, Receive, Scope, Send

# Swagger UI and ReDoc as they are published, in a package that carries them.
_VIEWERS = "fastapi_offline"
_HTML = b"text/html; charset=utf-8"
_SCRIPT = b"text/javascript; charset=utf-8"
# What changes with our version is asked for again each time and rarely sent; the viewers are a few megabytes.
_REVALIDATED = b"no-cache"
_KEPT = b"public, max-age=86400"

_DOCS = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AgentMesh API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript. What it shows is <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
# In a file of its own, so that the page's policy can refuse every inline script.
_START = b"""SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""
_REDOC = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AgentMesh API</title>
<link rel="icon" href="data:,">
<style>body { margin: 0; padding: 0; }</style>
</head>
<body>
<redoc spec-url="/openapi.json"></redoc>
<noscript>This page needs JavaScript. What it shows is <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/redoc/redoc.standalone.js"></script>
</body>
</html>
"""


def page_handlers(document: Mapping[str, Any]) -> dict[str, App]:
    """Path → handler. Everything is read and built here, once."""
    docs, redoc = _page(_DOCS, _HTML, _REVALIDATED), _page(_REDOC, _HTML, _REVALIDATED)
    return {
        "/openapi.json": _page(orjson.dumps(document), b"application/json", _REVALIDATED),
        "/docs": docs,
        "/redoc": redoc,
        "/api/docs": docs,
        "/api/redoc": redoc,
        "/docs/start.js": _page(_START, _SCRIPT, _REVALIDATED),
        "/docs/swagger-ui.css": _page(_viewer("swagger-ui.css"), b"text/css; charset=utf-8", _KEPT),
        "/docs/swagger-ui-bundle.js": _page(_viewer("swagger-ui-bundle.js"), _SCRIPT, _KEPT),
        "/redoc/redoc.standalone.js": _page(_viewer("redoc.standalone.js"), _SCRIPT, _KEPT),
    }


def _viewer(name: str) -> bytes:
    return files(_VIEWERS).joinpath("static", name).read_bytes()


def _page(body: bytes, content_type: bytes, cache_control: bytes) -> App:
    """The same bytes every time, or 304 for whoever has them."""
    tag = f'"{sha256(body).hexdigest()[:32]}"'
    caching: list[Header] = [(b"cache-control", cache_control), (b"etag", tag.encode())]
    whole = [*caching, (b"content-type", content_type), (b"content-length", str(len(body)).encode())]

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        if _names(header(scope, b"if-none-match"), tag):
            await send({"type": "http.response.start", "status": 304, "headers": caching.copy()})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": whole.copy()})
            await send({"type": "http.response.body", "body": body})

    return page


def _names(if_none_match: str, tag: str) -> bool:
    """Compared weakly: proxies that compress mark our tag as weak."""
    return any(each.strip().removeprefix("W/") in {tag, "*"} for each in if_none_match.split(","))
