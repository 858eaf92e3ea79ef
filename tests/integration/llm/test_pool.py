"""Connections to a server that is not always kind: kept, replaced, limited, given up."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.llm.providers.http1 import Malformed
from services.llm.providers.pool import Pool, open_pool

ASK = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Counts its connections and lets `talk` speak on each."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            await self.talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    talk: Talk, tls: ssl.SSLContext | None = None, connections: int = 8
) -> AsyncIterator[tuple[Server, Pool]]:
    server = Server(talk)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    async with open_pool(f"{'https' if tls else 'http'}://localhost:{port}", connections) as pool:
        yield server, pool
    for writer in server.writers:
        writer.close()
    listener.close()
    await listener.wait_closed()


async def kind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


async def ask(pool: Pool) -> bytes:
    return (await pool.exchange(ASK, 5))[1]


async def test_connections_are_kept():
    """One after the other needs one; many at once need many, and no more than allowed."""
    async with serving(kind, connections=3) as (server, pool):
        for _ in range(5):
            assert await ask(pool) == b"ok"
        assert server.connections == 1
        assert await asyncio.gather(*(ask(pool) for _ in range(20))) == [b"ok"] * 20
        assert server.connections == 3


async def test_a_connection_that_ended_at_rest_is_replaced():
    """The next request does not hear of it."""
    async with serving(kind) as (server, pool):
        await ask(pool)
        server.writers[0].close()
        await server.writers[0].wait_closed()
        await asyncio.sleep(0.05)
        assert await ask(pool) == b"ok"
        assert server.connections == 2


async def test_words_nobody_asked_for_end_the_connection():
    """They are never taken for the next answer."""

    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad")
        await reader.read()

    async with serving(chatty) as (server, pool):
        assert await ask(pool) == b"ok"
        await asyncio.sleep(0.1)
        assert await ask(pool) == b"ok"
        assert server.connections == 2


async def test_a_place_is_free_again_after_trouble():
    """Given up, timed out, refused: none of them keeps its place."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.read()

    async with serving(silent, connections=1) as (server, pool):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await pool.exchange(ASK, 0.05)
        server.talk = kind
        assert await ask(pool) == b"ok"


async def test_a_slow_listener_slows_the_server_down():
    """What it has not taken does not pile up here, and all of it arrives."""
    total, sent = 32 * 1024 * 1024, 0

    async def generous(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()
        await reader.read()

    async with serving(generous) as (_, pool), aclosing(pool.stream(ASK, 5)) as parts:
        heard = len((await anext(parts))[1])
        await asyncio.sleep(0.3)
        assert sent < total
        async for _, data in parts:
            heard += len(data)
        assert heard == total


async def test_an_answer_that_grows_while_its_listener_is_busy():
    """Its end is not missed, nor what came before it."""

    async def two_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none")
        await asyncio.sleep(0.05)
        writer.write(b"two")
        await reader.read()

    async with serving(two_parts) as (_, pool), aclosing(pool.stream(ASK, 5)) as parts:
        heard = [(await anext(parts))[1]]
        await asyncio.sleep(0.2)
        heard += [data async for _, data in parts]
        assert b"".join(heard) == b"onetwo"


async def test_no_answer_at_all():
    """A connection that just ends is malformed, one that is refused an OSError."""

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with serving(rude) as (_, pool):
        with pytest.raises(Malformed):
            await ask(pool)
    async with open_pool("http://127.0.0.1:1", 1) as pool:
        with pytest.raises(ConnectionRefusedError):
            await ask(pool)


def certify(folder: Path) -> Path:
    """A certificate for localhost that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    form = serialization.Encoding.PEM
    secret = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "both.pem"
    path.write_bytes(signed.public_bytes(form) + secret)
    return path


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A certificate that is trusted is accepted; a stranger's is not."""
    path = certify(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(path)
    async with serving(kind, tls) as (_, pool):
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(pool)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving(kind, tls) as (server, pool):
        assert [await ask(pool), await ask(pool)] == [b"ok", b"ok"]
        assert server.connections == 1
