"""The HTTP server: one listener inside the process's own event loop, started last and drained first.

Knows sockets, timeouts and TLS; what it serves is any ASGI application.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chassis.lifecycle import Host
from services.gateway.config import Http
from services.gateway.edge.asgi import App

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75
_HEAD_TIMEOUT_SECONDS = 10.0
_LARGEST_HEAD_BYTES = 64 * 1024
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
            ws="websockets-sansio",
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
    """Bounds the head of a request in time and size, which the server's own protocol does not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > _LARGEST_HEAD_BYTES:
            self.send_400_response("Request head too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_arrived()
        super().on_headers_complete()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_SECONDS, self.transport.close)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer, self._head_bytes = None, 0
