"""What a server answers, whole or broken: what broke off is never a clean end."""

import asyncio
import gzip
from contextlib import aclosing

import pytest

from chassis.errors import Unavailable
from services.llm.providers.connections import open_session
from services.llm.providers.http import Client, Site
from tests.integration.llm.raw_server import OK, ask, calling, hear, kind, listen, listening, saying, serving
from tests.support.clock import FakeClock

COUNTED = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n"hello\nworld"'
CHUNKED = (
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n"hello\r\n1;x=y\r\n\n\r\n06\r\nworld"\r\n0\r\n\r\n'
)


async def test_a_slow_listener_slows_the_server_down():
    """What it has not taken does not pile up here, and all of it arrives."""
    total, sent = 32 * 1024 * 1024, 0

    async def generous(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await hear(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(b"x" * 65535 + b"\n")
            sent += 65536
            await writer.drain()
        await reader.read()

    async with serving(generous) as (_, client), aclosing(client.lines(client.locate("/"), b"{}", "m")) as lines:
        heard = len(await anext(lines)) + 1
        await asyncio.sleep(0.3)
        assert sent < total
        async for line in lines:
            heard += len(line) + 1
        assert heard == total


async def test_an_answer_that_grows_while_its_listener_is_busy():
    """Its end is not missed, nor what came before it."""

    async def two_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hear(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\none\n")
        await asyncio.sleep(0.05)
        writer.write(b"two")
        await reader.read()

    async with serving(two_parts) as (_, client), aclosing(client.lines(client.locate("/"), b"{}", "m")) as lines:
        heard = [await anext(lines)]
        await asyncio.sleep(0.2)
        heard += [line async for line in lines]
        assert heard == [b"one", b"two"]


@pytest.mark.parametrize("raw", [COUNTED, CHUNKED])
async def test_an_answer_cut_short_is_none(raw: bytes):
    """At whichever byte the connection ends, it is the provider's failure, in one piece and streamed."""
    async with serving(saying(raw)) as (server, client):
        assert await listen(client) == [b'"hello', b'world"']
        for length in range(len(raw)):
            server.talk = saying(raw[:length])
            with pytest.raises(Unavailable):
                await ask(client)
            with pytest.raises(Unavailable):
                await listen(client)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
        b"x" * 70_000,
    ],
)
async def test_what_is_no_answer_is_the_providers_failure(raw: bytes):
    """Whatever else is listening there."""
    async with serving(saying(raw)) as (_, client):
        with pytest.raises(Unavailable):
            await ask(client)
        with pytest.raises(Unavailable):
            await listen(client)


async def test_a_compressed_answer_is_read():
    """Some servers compress what nobody asked them to."""
    body = gzip.compress(b'"ok"')
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with serving(saying(head + body)) as (_, client):
        assert await ask(client) == "ok"


async def test_a_redirect_is_not_followed():
    """The key and the conversation go nowhere else."""
    async with listening(kind) as elsewhere:
        raw = f"HTTP/1.1 307 x\r\nlocation: {elsewhere.url}/chat\r\ncontent-length: 0\r\n\r\n"
        async with serving(saying(raw.encode())) as (_, client):
            with pytest.raises(Unavailable):
                await ask(client)
            assert elsewhere.connections == 0


async def test_a_long_conversation_arrives():
    """A body of several MiB goes out whole."""
    heard: list[bytes] = []

    async def attentive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await hear(reader))
        writer.write(OK)

    body = b'"' + b"x" * (3 * 1024 * 1024) + b'"'
    async with serving(attentive) as (_, client):
        assert await ask(client, body) == "ok"
        assert heard[0].endswith(b"\r\n\r\n" + body)


async def test_the_head_of_a_request():
    """The site's path and query stay around ours; the key, one type, no compression."""
    heard: list[bytes] = []

    async def attentive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await hear(reader))
        writer.write(OK)

    async with (
        listening(attentive) as server,
        calling(f"{server.url}/a%2Fb/?version=1%2B1", authorization="Bearer k") as client,
    ):
        await ask(client)
    first, *lines = heard[0].decode().lower().split("\r\n\r\n")[0].split("\r\n")
    assert first == "post /a%2fb/chat?version=1%2b1 http/1.1"
    assert {"authorization: bearer k", "accept-encoding: identity", "content-type: application/json"} < set(lines)
    assert len({line.partition(":")[0] for line in lines}) == len(lines)


async def test_headers_and_users_that_cannot_be():
    """A key with a line's end, or one beside a user in the URL, is refused before the first call."""
    async with open_session(1) as session:
        for site in (
            Site(provider="p", url="http://h", headers={"authorization": "Bearer a\r\nb: c"}),
            Site(provider="p", url="http://me:secret@h", headers={"authorization": "Bearer k"}),
        ):
            with pytest.raises(ValueError, match=r"for p is not one line|one of them"):
                Client(session, site, FakeClock())
