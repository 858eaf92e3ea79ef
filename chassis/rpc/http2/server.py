"""A gRPC server: its methods, its port, its connections."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from chassis.endless import end
from chassis.rpc.http2.connection import Connection, Served
from chassis.rpc.http2.together import AnswerTogether

_BACKLOG = 1024
_HANDSHAKE_SECONDS = 20.0
_CLEAN_UP_SECONDS = 1.0


class Server:
    """Serves what generated code adds to it.

    Args:
        max_message_bytes: of a request's message.
        max_age_seconds: after so long a connection is told to come again, so that clients spread anew; 0: never.
        grace_seconds: how long calls of such a connection may still take.
    """

    def __init__(self, *, max_message_bytes: int, max_age_seconds: float = 0, grace_seconds: float = 30) -> None:
        self._handlers: dict[bytes, Any] = {}
        self._together: dict[bytes, AnswerTogether] = {}
        self._served = Served(handlers=self._handlers, together=self._together, most_bytes=max_message_bytes)
        self._max_age_seconds = max_age_seconds
        self._grace_seconds = grace_seconds
        self._listeners: list[asyncio.Server] = []
        self._connections: dict[Connection, asyncio.TimerHandle | None] = {}
        self._gone = asyncio.Event()
        self._gone.set()
        self._stopped = False

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Part of the server's interface that the generated code calls; the registered handlers below say the same."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serves a service's methods, all calls by themselves."""
        self._handlers |= {f"/{service}/{name}".encode(): handler for name, handler in handlers.items()}

    def answer_together(self, path: str, answer: AnswerTogether) -> None:
        """Serves a method whose calls are answered together when they come together."""
        self._together[path.encode()] = answer

    async def listen(self, host: str, port: int, *, tls: ssl.SSLContext | None = None, reuse_port: bool = False) -> int:
        """Answers calls to a port, and returns which: port 0 is any that is free. Raises OSError for one in use."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            self._connection,
            host,
            port,
            ssl=tls,
            reuse_port=reuse_port,
            backlog=_BACKLOG,
            ssl_handshake_timeout=_handshake_seconds(tls),
        )
        self._listeners.append(listener)
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    async def listen_at(self, path: str, *, tls: ssl.SSLContext | None = None) -> None:
        """Answers calls to a socket in the file system."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_unix_server(
            self._connection, path, ssl=tls, backlog=_BACKLOG, ssl_handshake_timeout=_handshake_seconds(tls)
        )
        self._listeners.append(listener)

    def _connection(self) -> Connection:
        return Connection(self._served, self._made, self._lost)

    def _made(self, connection: Connection) -> None:
        if self._stopped:
            # It was accepted, or shook hands, while the others ended.
            connection.abort()
        timer = None
        if self._max_age_seconds:
            timer = asyncio.get_running_loop().call_later(self._max_age_seconds, self._renew, connection)
        self._connections[connection] = timer
        self._gone.clear()

    async def stop(self, grace_seconds: float | None) -> None:
        """Takes no more calls, lets those under way end for so long, and ends what is left."""
        self._stopped = True
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self._connections):
            connection.drain()
        if grace_seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._gone.wait()
        for connection in tuple(self._connections):
            connection.abort()
        if self._served.tasks:
            # Their connections have cancelled them, and again would cut off what they do at their end.
            await asyncio.wait(self._served.tasks, timeout=_CLEAN_UP_SECONDS)
        await end(self._served.tasks)

    def _lost(self, connection: Connection) -> None:
        timer = self._connections.pop(connection, None)
        if timer is not None:
            timer.cancel()
        if not self._connections:
            self._gone.set()

    def _renew(self, connection: Connection) -> None:
        connection.drain()
        loop = asyncio.get_running_loop()
        self._connections[connection] = loop.call_later(self._grace_seconds, connection.close)


def _handshake_seconds(tls: ssl.SSLContext | None) -> float | None:
    return None if tls is None else _HANDSHAKE_SECONDS
