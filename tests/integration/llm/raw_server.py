"""A server that sends the bytes it is told to, and clients of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.llm.providers.connections import open_session
from services.llm.providers.http import Client, Site
from tests.support.clock import FakeClock

OK = b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"ok"'

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Counts its connections and lets `talk` speak on each."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.url = ""
        self.connections = 0
        self.left = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            await self.talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            # That the client leaves in the middle is what some tests are about; `left` tells them.
            pass
        finally:
            self.left.set()
            writer.close()


@asynccontextmanager
async def listening(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(talk)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://localhost:{port}"
    yield server
    for writer in server.writers:
        writer.close()
    listener.close()
    await listener.wait_closed()


@asynccontextmanager
async def calling(url: str, *, connections: int = 8, seconds: float = 5, **headers: str) -> AsyncIterator[Client]:
    async with open_session(connections) as session:
        site = Site(provider="p", url=url, headers=headers, timeout_seconds=seconds, idle_seconds=seconds)
        yield Client(session, site, FakeClock())


@asynccontextmanager
async def serving(
    talk: Talk, tls: ssl.SSLContext | None = None, *, connections: int = 8, seconds: float = 5
) -> AsyncIterator[tuple[Server, Client]]:
    async with (
        listening(talk, tls) as server,
        calling(server.url, connections=connections, seconds=seconds) as client,
    ):
        yield server, client


async def kind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await hear(reader)
        writer.write(OK)


async def hear(reader: asyncio.StreamReader) -> bytes:
    """One request: its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


def saying(raw: bytes) -> Talk:
    """Sends this to whatever was asked, and closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hear(reader)
        writer.write(raw)

    return talk


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del writer
    await reader.read()
    while not reader.at_eof():
        await reader.read()


async def ask(client: Client, body: bytes = b"{}") -> object:
    return await client.post(client.locate("/chat"), body, "m")


async def listen(client: Client) -> list[bytes]:
    return [line async for line in client.lines(client.locate("/chat"), b"{}", "m")]
