"""Server-sent events as the answer of a FastAPI route, with the client's leaving noticed at once."""

from collections.abc import AsyncGenerator

from fastapi import Response

from services.gateway.apis.exchange import Attendance, send_events
from services.gateway.edge.asgi import Receive, Scope, Send


class EventStream(Response):
    """Sends what a generator of encoded events gives; what it raises before the first has a status of its own."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__()
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        with Attendance(receive):
            await send_events(send, self._events)
