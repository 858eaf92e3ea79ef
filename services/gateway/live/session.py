"""One socket from accept to close: writes what its mailbox holds, answers pings, ends with its credential."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from services.gateway.live.mailbox import NOT_ALLOWED, Ending, Mailbox

# A revoked credential ends its sockets within this, as it ends everything else.
_CHECK_EVERY_SECONDS = 1.0
_CLOSE_SECONDS = 1.0
_PINGS = {"ping": "pong", '{"type":"ping"}': '{"type":"pong"}', '{"type": "ping"}': '{"type":"pong"}'}

# Told of what a client says besides pings.
Hear = Callable[[str], Awaitable[None]]


class _Over(Exception):
    """The session ends; without an ending when the client has left."""

    def __init__(self, ending: Ending | None) -> None:
        super().__init__()
        self.ending = ending


async def serve(
    socket: WebSocket, mailbox: Mailbox, still_allowed: Callable[[], Awaitable[bool]], hear: Hear | None = None
) -> None:
    """Runs an accepted socket until its client leaves, its mailbox ends, or `still_allowed` says no."""
    # A group that fails may leave its task counted as cancelled, and then a timeout in the same task ends as a
    # cancellation that nobody asked for. So the group has a task of its own.
    ending = await asyncio.ensure_future(_converse(socket, mailbox, still_allowed, hear))
    if ending is not None:
        await close(socket, ending)


async def _converse(
    socket: WebSocket, mailbox: Mailbox, still_allowed: Callable[[], Awaitable[bool]], hear: Hear | None
) -> Ending | None:
    """Returns how to close; None when the client has left."""
    ending: Ending | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_read(socket, hear))
            tasks.create_task(_write(socket, mailbox))
            tasks.create_task(_end(mailbox))
            tasks.create_task(_check(still_allowed))
    except* _Over as overs:
        endings = [over.ending for over in overs.exceptions if isinstance(over, _Over)]
        ending = None if None in endings else endings[0]
    except* WebSocketDisconnect:
        ending = None
    return ending


async def close(socket: WebSocket, ending: Ending) -> None:
    """Closes a socket; a client that does not read does not read the close either."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await socket.close(ending.code, ending.reason)


async def _read(socket: WebSocket, hear: Hear | None) -> None:
    """What a client says besides pings is passed over where nobody listens."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise _Over(None)
        said = message.get("text") or ""
        answer = _PINGS.get(said)
        if answer is not None:
            await socket.send_text(answer)
        elif hear is not None:
            await hear(said)


async def _write(socket: WebSocket, mailbox: Mailbox) -> None:
    while True:
        frame = await mailbox.take()
        await socket.send_text(frame.text)


async def _end(mailbox: Mailbox) -> None:
    raise _Over(await mailbox.ended())


async def _check(still_allowed: Callable[[], Awaitable[bool]]) -> None:
    # No event tells of a credential's end: expiry is a matter of the clock, and of revocations the cache only forgets.
    while await still_allowed():  # noqa: ASYNC110 - as said above
        await asyncio.sleep(_CHECK_EVERY_SECONDS)
    raise _Over(NOT_ALLOWED)
