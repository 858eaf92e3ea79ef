"""``X-Response-Envelope: standard``: the native API's success envelope around any of its JSON answers."""

from typing import Any

import orjson

from chassis.clock import Clock
from services.gateway.apis.exchange import header
from services.gateway.edge.asgi import App, Message, Receive, Scope, Send
from services.gateway.edge.context import current
from services.gateway.views import iso

HEADER = b"x-response-envelope"
STANDARD = "standard"

_FIRST_REDIRECT = 300
_NO_CONTENT = 204


async def enveloped(app: App, clock: Clock, scope: Scope, receive: Receive, send: Send) -> None:
    """Runs `app` and wraps what it answers, if that is JSON and a success; errors have their envelope already."""
    began = clock.monotonic()
    held: Message | None = None
    parts: list[bytes] = []

    async def wrap(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start" and _wrappable(message):
            held = message
        elif held is None:
            await send(message)
        else:
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await _send_wrapped(held, b"".join(parts))

    async def _send_wrapped(start: Message, body: bytes) -> None:
        now, context = clock.now(), current(scope)
        metadata = orjson.dumps(
            {
                "timestamp": iso(now),
                "request_id": context.request_id,
                "processing_time_ms": round((clock.monotonic() - began) * 1000, 3),
            }
        )
        whole = b'{"success":true,"data":' + body + b',"error":null,"metadata":' + metadata + b"}"
        headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(whole)).encode()))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": whole})

    await app(scope, receive, wrap)


def wants_envelope(scope: Scope) -> bool:
    """Whether the client asked for it."""
    return header(scope, HEADER).lower() == STANDARD


def _wrappable(start: Any) -> bool:
    if start["status"] >= _FIRST_REDIRECT or start["status"] == _NO_CONTENT:
        return False
    return any(name == b"content-type" and value.startswith(b"application/json") for name, value in start["headers"])
