"""A TCP connection that can be cut: a proxy in front of a store resets, swallows or passes what goes through it."""

import asyncio
import socket
import struct
from contextlib import suppress
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 64 * 1024


class Mode(StrEnum):
    """`OPEN` passes everything; `CUT` resets what is there and refuses what comes; `HOLE` takes everything and passes
    nothing, as a network that drops packets does.
    """

    OPEN = "open"
    CUT = "cut"
    HOLE = "hole"


class Proxy:
    """One listening port in front of one target. Start it in the loop it shall live in."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._mode = Mode.OPEN
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        """Ends every connection and the port."""
        if self._server is not None:
            self._server.close()
        self._reset()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    @property
    def url(self) -> str:
        """The target's URL with this port in place of its own."""
        assert self._server is not None, "not started"
        port = self._server.sockets[0].getsockname()[1]
        login = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{login[0]}{login[1]}127.0.0.1:{port}"))

    def aim(self, target: str) -> None:
        """Connections made from now on go to another target, as behind an address that moves with a failover."""
        self._target = urlsplit(target)

    def switch(self, mode: Mode) -> None:
        """Changes what happens to every connection, those that are open included."""
        self._mode = mode
        if mode is Mode.CUT:
            self._reset()
        if mode is Mode.HOLE:
            self._passing.clear()
        else:
            self._passing.set()

    def _reset(self) -> None:
        for writer in self._writers:
            _abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.CUT:
            _abort(writer)
            return
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            await self._passing.wait()
            far_reader, far = await asyncio.open_connection(self._target.hostname, self._target.port)
            self._writers.add(far)
            pumps = {asyncio.create_task(self._pump(reader, far)), asyncio.create_task(self._pump(far_reader, writer))}
            self._pumps |= pumps
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            self._pumps -= pumps
        except OSError:
            # The target is down; the client meets a closed connection, as it would without us.
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    _abort(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with a reset: the peer learns it at once and nothing lingers."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
