"""The one send wrapper: what the edge adds to every answer, at once and in one list."""

from collections.abc import Awaitable, Callable

from chassis.errors import Internal
from services.gateway.edge.asgi import Header, Message, Send

START = "http.response.start"


class Reply:
    """A `send` that adds headers to the first message and remembers what happened.

    Attributes:
        status: of the answer; 0 before it started.
    """

    __slots__ = ("_extra", "_send", "status")

    def __init__(self, send: Send, extra: Callable[[], list[Header]]) -> None:
        self._send = send
        self._extra = extra
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        # No coroutine of its own: the server's awaitable is handed through.
        if message["type"] == START:
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._extra()]
        return self._send(message)

    def check_answered(self) -> None:
        """Raises Internal when nothing was sent."""
        if not self.status:
            raise Internal(private="the application ended without an answer")


class SocketReply:
    """The same for a WebSocket: the handshake's answer gets the headers, and the offered subprotocol its echo."""

    __slots__ = ("_extra", "_send", "_subprotocol", "status")

    def __init__(self, send: Send, extra: Callable[[], list[Header]], *, subprotocol: str | None) -> None:
        self._send = send
        self._extra = extra
        self._subprotocol = subprotocol
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "websocket.accept":
            self.status = 101
            message["headers"] = [*message.get("headers", ()), *self._extra()]
            if self._subprotocol is not None and message.get("subprotocol") is None:
                message["subprotocol"] = self._subprotocol
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._extra()]
        return self._send(message)
