"""The HTTP server: one listener inside the process's own event loop, started last and drained first.

Knows sockets, timeouts and TLS; what it serves is any ASGI application.
"""

import asyncio
import socket
from pathlib import Path

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from chassis.errors import Unavailable
from chassis.lifecycle import Host
from services.gateway.config import Http
from services.gateway.edge.asgi import App

_BACKLOG = 2048
# Requests, streams and sockets served at a time; the next ones wait in the backlog.
_MOST_AT_ONCE = 16_384
_HEADER_TIMEOUT_MILLISECONDS = 10_000
_LARGEST_HEAD_BYTES = 64 * 1024
_TRY_EVERY_SECONDS = 0.02
_TRIES = 250


class Listener:
    """One address that is served from `start` to `drain`."""

    def __init__(self, host: Host, settings: Http) -> None:
        self._host = host
        self._settings = settings
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, app: App) -> None:
        """Serves; returns when connections are accepted. Raises OSError when the address is taken."""
        address = self._host.settings.host, self._settings.port
        _refuse_taken(address)
        self._server = self._make(app)
        self._serving = self._host.spawn("http", self._server.serve())
        for _ in range(_TRIES):
            if await _accepts(address):
                return
            await asyncio.sleep(_TRY_EVERY_SECONDS)
        raise Unavailable(private=f"the listener on {address} does not accept connections")

    async def drain(self) -> None:
        """Accepts nothing new, and returns when the last answer is out."""
        if self._server is not None and self._serving is not None:
            self._server.stop()  # type: ignore[no-untyped-call]  # granian leaves it untyped
            await asyncio.shield(self._serving)

    def _make(self, app: App) -> Server:
        settings = self._settings
        return Server(
            app,
            address=self._host.settings.host,
            port=settings.port,
            # Without lifespan: the process's own life cycle opens and closes everything.
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(
                header_read_timeout=_HEADER_TIMEOUT_MILLISECONDS, max_buffer_size=_LARGEST_HEAD_BYTES
            ),
            backlog=_BACKLOG,
            backpressure=_MOST_AT_ONCE,
            # Its lines would not be the process's JSON, and its errors arrive as exceptions.
            log_enabled=False,
            ssl_cert=Path(settings.tls_certificate) if settings.tls_certificate else None,
            ssl_key=Path(settings.tls_key) if settings.tls_key else None,
        )


def _refuse_taken(address: tuple[str, int]) -> None:
    """Raises OSError when somebody listens there: the server itself would share the port with him in silence."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


async def _accepts(address: tuple[str, int]) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address)
    except OSError:
        return False
    writer.close()
    return True
