"""One HTTP exchange on raw ASGI, where every microsecond counts: read, watch for the client leaving, answer.

Knows no dialect. Errors are raised; the edge renders them.
"""

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, cast

import orjson

from services.gateway.edge.asgi import Receive, Scope, Send

# A client that leaves is noticed this much later than it could be. Answers that are faster, which is nearly all of them
# under load, never pay for a task that watches (about 10 µs each).
_UNWATCHED_SECONDS = 0.02
_JSON = (b"content-type", b"application/json")
_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies in front (nginx, Kong) buffer streams unless they are told not to.
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """The client left before it was answered: there is nobody to tell anything."""


class Attendance:
    """Runs its body only as long as the client is there; cancels it and raises ClientGone when the client leaves.

    Its one task is started late, held here, and ended with the body.
    """

    __slots__ = ("_cancelling", "_gone", "_loop", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._timer = self._loop.call_later(_UNWATCHED_SECONDS, self._begin)

    def _begin(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._gone = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # As asyncio.timeout does: only a cancellation of our own becomes an error of ours.
        ours = self._gone and self._task.uncancel() <= self._cancelling
        if ours and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise ClientGone from error


async def read_body(receive: Receive) -> bytes:
    """The whole body; the edge has bounded it. Raises ClientGone."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return cast("bytes", message.get("body", b""))
    parts = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
    raise ClientGone


def header(scope: Scope, name: bytes) -> str:
    """The first header of that (lower-case) name, empty without one."""
    for key, value in scope["headers"]:
        if key == name:
            return cast("str", value.decode("latin-1"))
    return ""


async def send_json(send: Send, value: Any, status: int = 200) -> None:
    """Answers with a JSON value."""
    await send_bytes(send, orjson.dumps(value), _JSON, status)


async def send_bytes(send: Send, body: bytes, content_type: tuple[bytes, bytes], status: int = 200) -> None:
    """Answers with a whole body."""
    headers = [content_type, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_events(send: Send, frames: AsyncGenerator[bytes]) -> None:
    """Answers with server-sent events once the first is there: what fails before it has a status of its own."""
    try:
        first = await anext(frames)
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        if first:
            await send({"type": "http.response.body", "body": first, "more_body": True})
        async for frame in frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await frames.aclose()


def event(value: Any) -> bytes:
    """One server-sent event with a JSON value."""
    return b"data: " + orjson.dumps(value) + b"\n\n"
