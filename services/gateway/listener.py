"""The HTTP server: one listener inside the process's own event loop, started last and drained first.

Knows sockets, timeouts and TLS; what it serves is any ASGI application.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from chassis.lifecycle import Host
from services.gateway.config import Http
from services.gateway.edge.asgi import App
from services.gateway.live.keepalive import keepalive_of

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75
_HEAD_TIMEOUT_SECONDS = 10.0
_LARGEST_HEAD_BYTES = 64 * 1024
# A body comes at a kilobyte a second or better.
_BODY_PERIOD_SECONDS = 20.0
_LEAST_BODY_BYTES_A_PERIOD = 20 * 1024
_LARGEST_SOCKET_MESSAGE_BYTES = 1024 * 1024


class Listener:
    """One address that is served from `start` to `drain`."""

    def __init__(self, host: Host, settings: Http) -> None:
        self._host = host
        self._settings = settings
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, app: App) -> None:
        """Serves. Raises OSError when the address is taken or the certificate cannot be read."""
        configuration = self._configuration(app)
        configuration.load()
        # Connections are accepted from here on; they wait for the loop, not for the server's start.
        listening = socket.create_server((self._host.settings.host, self._settings.port), backlog=_BACKLOG)
        self._server = _Server(configuration)
        self._serving = self._host.spawn("http", self._server.serve(sockets=[listening]))

    async def drain(self) -> None:
        """Accepts nothing new, and returns when the last answer is out."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.shield(self._serving)

    def _configuration(self, app: App) -> uvicorn.Config:
        return uvicorn.Config(
            app,
            http=_Protocol,
            ws=_SocketProtocol,
            ws_max_size=_LARGEST_SOCKET_MESSAGE_BYTES,
            # Without lifespan: the process's own life cycle opens and closes everything.
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            backlog=_BACKLOG,
            # Its lines go through the process's own logging, and those of requests are the edge's affair.
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Which proxies are believed, the edge knows.
            proxy_headers=False,
            ssl_certfile=self._settings.tls_certificate or None,
            ssl_keyfile=self._settings.tls_key or None,
        )


class _Server(uvicorn.Server):
    """Leaves signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Bounds a request in time and its head in size, which the server's own protocol does not.

    Whoever says nothing whole for long is let go: strangers could otherwise hold as many connections as there are.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent
        super().connection_made(transport)
        self._in_head, self._head_bytes = True, 0
        self._in_body, self._body_bytes = False, 0
        self._timer: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        handler = self.transport.get_protocol()
        if handler is not self:
            self._check_handshake(handler)
        elif self._in_head and self._head_bytes > _LARGEST_HEAD_BYTES:
            self.send_400_response("Request head too large")
        elif self._timer is None:
            self._await_more()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._arrived()
        self._in_head, self._head_bytes = False, 0
        self._in_body, self._body_bytes = True, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arrived()
        self._in_body = False
        super().on_message_complete()

    def _check_handshake(self, handler: asyncio.BaseProtocol) -> None:
        self._arrived()
        if isinstance(handler, WebSocketsSansIOProtocol) and not handler.handshake_initiated:
            # The head is whole but none that it understands (with a body, say): it would wait for ever.
            self.send_400_response("Invalid WebSocket handshake.")

    def _await_more(self) -> None:
        if self._in_body:
            self._await_body()
        elif self._in_head or self.cycle is None or self.cycle.response_complete:
            # Between requests too: what the parser passes over, such as empty lines, ends the server's own timeout.
            self._await_head()

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(_HEAD_TIMEOUT_SECONDS, self.transport.close)

    def _await_body(self) -> None:
        self._body_bytes = 0
        self._timer = self.loop.call_later(_BODY_PERIOD_SECONDS, self._judge_body)

    def _judge_body(self) -> None:
        # While the application does not read, the client cannot write.
        if self._body_bytes >= _LEAST_BODY_BYTES_A_PERIOD or self.flow.read_paused:
            self._await_body()
        else:
            self.transport.close()

    def _arrived(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _SocketProtocol(WebSocketsSansIOProtocol):
    """Reads no further while its answers are not read: pongs to a client that only pings would fill the memory.

    Pings as often as the route wants.
    """

    async def send(self, message: "ASGISendEvent") -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            # A handshake that was refused with an answer has ended as well; the server would call it an error.
            self.handshake_complete = True

    def start_keepalive(self) -> None:
        keepalive = keepalive_of(self.scope)  # type: ignore[arg-type]  # its scope is a typed dict
        self.ping_interval, self.ping_timeout = keepalive.every_seconds, keepalive.within_seconds
        super().start_keepalive()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            # What a host that vanished has not taken would be waited for, and its end be told only then.
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()
