"""``/openapi.json`` and the pages that show it. All built once."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html

from services.gateway.apis.exchange import send_bytes
from services.gateway.edge.asgi import App, Receive, Scope, Send

_DOCUMENT = "/openapi.json"
_TITLE = "AgentMesh"
_HTML = (b"content-type", b"text/html; charset=utf-8")


def page_handlers(document: Mapping[str, Any]) -> dict[str, App]:
    """Path → handler."""
    swagger = bytes(get_swagger_ui_html(openapi_url=_DOCUMENT, title=_TITLE).body)
    redoc = bytes(get_redoc_html(openapi_url=_DOCUMENT, title=_TITLE).body)
    return {
        _DOCUMENT: _page(orjson.dumps(document), (b"content-type", b"application/json")),
        "/docs": _page(swagger, _HTML),
        "/redoc": _page(redoc, _HTML),
        "/api/docs": _page(swagger, _HTML),
        "/api/redoc": _page(redoc, _HTML),
    }


def _page(body: bytes, content_type: tuple[bytes, bytes]) -> App:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_bytes(send, body, content_type)

    return page
