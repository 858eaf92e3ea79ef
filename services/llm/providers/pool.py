"""Long-lived connections to one server. A request that is given up closes its connection at once, so that the server
stops working on it. Knows bytes and time limits, and nothing of what is said.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

from services.llm.providers.http1 import Incoming, Malformed

_CONNECT_SECONDS = 5.0
# Servers close idle connections after some time; one that has rested this long is no longer trusted.
_REST_SECONDS = 30.0
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
# What a slow listener may leave lying before the server is made to wait.
_ENOUGH_BYTES = 256 * 1024


class Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._incoming: Incoming | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._paused = False
        self.rested_at = 0.0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, only alike.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._incoming is None:
            # Nothing was asked. A server that says goodbye in words closes the connection anyway.
            self.abort()
            return
        try:
            self._incoming.feed(data)
        except Malformed as error:
            self._error = error
        if self._incoming.waiting_bytes > _ENOUGH_BYTES and not self._incoming.done and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._incoming is not None and not self._incoming.done:
            try:
                self._incoming.end()
            except Malformed as error:
                self._error = self._error or exc or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def ask(self, request: bytes) -> Incoming:
        """Sends a request; `wait` until its answer grows."""
        self._incoming, self._error = Incoming(), None
        self._transport.write(request)
        return self._incoming

    async def wait(self) -> None:
        """Returns when more has come. Raises Malformed or OSError when nothing more will."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._error is None:
            self._waiter = self._loop.create_future()
            await self._waiter
            self._waiter = None
        if self._error is not None:
            raise self._error

    def rest(self) -> None:
        """Forgets the answer, which is complete."""
        self._incoming = None

    def abort(self) -> None:
        """Ends the connection at once."""
        self.closed = True
        self._transport.abort()


class Pool:
    """The connections to one server.

    Args:
        url: of which scheme, host and port count.
        connections: how many may be open at once; more requests wait for one.
    """

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _tls() if parts.scheme == "https" else None
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(connections)
        self._loop = asyncio.get_running_loop()

    async def exchange(self, request: bytes, timeout_seconds: float) -> tuple[Incoming, bytes]:
        """The whole answer and its body. Raises Malformed, OSError and TimeoutError."""
        async with asyncio.timeout(timeout_seconds), self._room:
            connection = self._rested() or await self._connect()
            try:
                answer = connection.ask(request)
                while not answer.done:
                    await connection.wait()
                    _check_size(answer)
            except BaseException:
                connection.abort()
                raise
            self._lay_down(connection, answer)
        return answer, answer.take()

    async def stream(self, request: bytes, idle_seconds: float) -> AsyncGenerator[tuple[Incoming, bytes], None]:
        """The answer and what is new of its body, as it comes; at least once. Raises as `exchange`.

        Closing it ends the connection, unless the answer was complete.
        """
        async with self._room:
            connection = self._rested() or await self._connect()
            try:
                answer = connection.ask(request)
                while True:
                    while not answer.done and not answer.waiting_bytes:
                        async with asyncio.timeout(idle_seconds):
                            await connection.wait()
                    yield answer, answer.take()
                    if answer.done and not answer.waiting_bytes:
                        break
            finally:
                if answer.done:
                    self._lay_down(connection, answer)
                else:
                    connection.abort()

    def _rested(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if self._loop.time() - connection.rested_at < _REST_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, connection = await self._loop.create_connection(
                Connection, self._host, self._port, ssl=self._tls, server_hostname=self._host if self._tls else None
            )
        return connection

    def _lay_down(self, connection: Connection, answer: Incoming) -> None:
        connection.rest()
        if not answer.keep_alive or connection.closed:
            connection.abort()
            return
        connection.rested_at = self._loop.time()
        self._idle.append(connection)

    def close(self) -> None:
        """Ends the connections that rest."""
        while self._idle:
            self._idle.pop().abort()


def _check_size(answer: Incoming) -> None:
    if answer.waiting_bytes > _MAX_ANSWER_BYTES:
        raise Malformed("an answer without an end")


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


@asynccontextmanager
async def open_pool(url: str, connections: int) -> AsyncIterator[Pool]:
    """A pool for as long as it is open."""
    pool = Pool(url, connections)
    try:
        yield pool
    finally:
        pool.close()
        # The loop needs a turn to close what was aborted.
        await asyncio.sleep(0)
