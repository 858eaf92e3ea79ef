"""The HTTP server itself: what it promises the edge, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest

from chassis.clock import SystemClock
from chassis.config import Process
from chassis.lifecycle import Host
from deploy.local.ports import free_port
from services.gateway.config import Http
from services.gateway.edge.asgi import App, Receive, Scope, Send
from services.gateway.listener import Listener
from services.gateway.live import keepalive

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


@dataclass(slots=True, kw_only=True)
class Served:
    listener: Listener
    port: int
    client: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def raw(self, request: bytes) -> bytes:
        """What the server answers to bytes, until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionResetError:
            # Closed with bytes of ours unread.
            return b""
        finally:
            writer.close()


Serve = Callable[[App], Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(app: App) -> Served:
            port = free_port()
            host = Host("gateway", Process(), SystemClock(), stack)
            listener = Listener(host, Http(port=port))
            host.on_drain("http", listener.drain)
            await listener.start(app)
            stack.push_async_callback(host.drain)
            return Served(listener=listener, port=port, client=client)

        yield start


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it read, and 400 to a body that never came whole."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            await send(HEAD | {"status": 400})
            await send({"type": "http.response.body", "body": b""})
            return
        body, more = body + message["body"], message["more_body"]
    await send(dict(HEAD))
    await send({"type": "http.response.body", "body": b"hello " + body})


async def test_a_request_is_served(serve: Serve):
    """Method, body and headers go in, status, headers and body come out."""
    served = await serve(hello)
    async with served.client.post(served.url, data=b"you") as answer:
        assert (answer.status, await answer.read()) == (200, b"hello you")
        assert answer.headers["content-type"] == "text/plain"


async def test_what_is_under_way_ends_well_when_it_drains(serve: Serve):
    """A draining listener takes no new connection and finishes the stream it is sending."""
    told, more = asyncio.Event(), asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(HEAD))
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        told.set()
        await more.wait()
        await send({"type": "http.response.body", "body": b"last"})

    served = await serve(stream)
    async with served.client.get(served.url) as answer:
        assert await answer.content.readany() == b"first "
        await told.wait()
        draining = asyncio.ensure_future(served.listener.drain())
        await _until_refused(served.port)
        assert not draining.done()
        more.set()
        assert await answer.content.read() == b"last"
        await draining


async def _until_refused(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.01)


async def test_a_taken_port_is_an_error(serve: Serve):
    """Two gateways never share a port in silence."""
    served = await serve(hello)
    async with AsyncExitStack() as stack:
        host = Host("gateway", Process(), SystemClock(), stack)
        with pytest.raises(OSError, match="in use"):
            await Listener(host, Http(port=served.port)).start(hello)


async def test_an_answer_that_breaks_is_seen_to_be_broken(serve: Serve):
    """A client of a half answer learns that it is half."""

    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(HEAD))
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError

    served = await serve(breaking)
    async with served.client.get(served.url) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_a_client_that_leaves_is_noticed(serve: Serve):
    """The application hears of it and can stop what it does."""
    gone = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(dict(HEAD))
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            continue
        gone.set()

    served = await serve(waiting)
    async with served.client.get(served.url) as answer:
        await answer.content.readany()
        answer.close()
    async with asyncio.timeout(20):
        await gone.wait()


async def test_sockets_talk_and_are_refused_with_an_answer(serve: Serve, caplog: pytest.LogCaptureFixture):
    """A socket echoes; a refusal is an HTTP answer with a body."""

    async def sockets(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if not scope["subprotocols"]:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b'{"no":1}'})
            return
        await send({"type": "websocket.accept", "subprotocol": "bearer"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close", "code": 1000})

    served = await serve(sockets)
    async with served.client.ws_connect(served.url, protocols=("bearer", "x")) as socket_:
        await socket_.send_str("hi")
        assert (await socket_.receive_str(), socket_.protocol) == ("hi", "bearer")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await served.client.ws_connect(served.url)
    assert refused.value.status == 401
    assert "handshake" not in caplog.text


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        HANDSHAKE + b"Content-Length: 5\r\n\r\nhello",
    ],
)
async def test_bad_http_harms_nobody(serve: Serve, request_: bytes):
    """What is no HTTP gets a 4xx or a closed connection, and the next request is served."""
    served = await serve(hello)
    async with asyncio.timeout(20):
        answer = await served.raw(request_)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    async with served.client.post(served.url, data=b"you") as next_:
        assert next_.status == 200


@pytest.mark.parametrize(
    ("said", "again"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", b"a"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
    ],
    ids=["nothing", "head", "body", "chunks", "trailers", "empty lines"],
)
async def test_who_never_ends_is_let_go(serve: Serve, said: bytes, again: bytes, monkeypatch: pytest.MonkeyPatch):
    """A client that drips bytes for ever does not hold its connection for ever."""
    monkeypatch.setattr("services.gateway.listener._HEAD_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr("services.gateway.listener._BODY_PERIOD_SECONDS", 0.3)
    served = await serve(hello)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(said)
    async with asyncio.timeout(20):
        while not await _has_ended(reader):
            writer.write(again)
    writer.close()


async def _has_ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other side closes or resets the connection within a moment."""
    try:
        async with asyncio.timeout(0.05):
            return not await reader.read(1000)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_a_slow_body_that_comes_is_read(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    """Slowness alone is no offence."""
    monkeypatch.setattr("services.gateway.listener._BODY_PERIOD_SECONDS", 1.0)
    monkeypatch.setattr("services.gateway.listener._LEAST_BODY_BYTES_A_PERIOD", 1)

    async def slowly() -> AsyncIterator[bytes]:
        # For longer than a period, and far more often than needed: the machine may be slow too.
        for _ in range(24):
            yield b"x"
            await asyncio.sleep(0.05)

    served = await serve(hello)
    async with served.client.post(served.url, data=slowly()) as answer:
        assert await answer.read() == b"hello " + b"x" * 24


async def test_a_socket_outlives_the_timeouts_of_its_handshake(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    """What holds for requests does not hold for what they became."""
    monkeypatch.setattr("services.gateway.listener._HEAD_TIMEOUT_SECONDS", 1.0)

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(1.2)
        await send({"type": "websocket.send", "text": "late"})

    served = await serve(late)
    async with served.client.ws_connect(served.url) as socket_:
        assert await socket_.receive_str() == "late"


async def test_pings_whose_pongs_are_not_read_are_not_read_either(serve: Serve):
    """A client that only pings fills its own buffers, and the server's memory not at all."""

    async def open_(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            continue

    served = await serve(open_)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.write(HANDSHAKE + b"\r\n")
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_ping(writer), 3)
    writer.transport.abort()


async def _ping(writer: asyncio.StreamWriter) -> None:
    # A hundred megabytes: far more than all the buffers of sockets between the two.
    for _ in range(100):
        writer.write((b"\x89\xfd\0\0\0\0" + b"a" * 125) * 8000)
        await writer.drain()


@pytest.mark.parametrize("unread", [0, 20_000_000])
async def test_a_socket_that_answers_no_pings_is_let_go(serve: Serve, monkeypatch: pytest.MonkeyPatch, unread: int):
    """As soon as its route wants to know, whether or not it has taken what it was sent."""
    monkeypatch.setattr(keepalive, "BRISK", keepalive.Keepalive(every_seconds=0.1, within_seconds=0.1))
    gone = asyncio.Event()

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        keepalive.ask_often(scope)
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x" * unread})
        while (await receive())["type"] != "websocket.disconnect":
            continue
        gone.set()

    served = await serve(watching)
    # Whoever does not read answers no pings.
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.write(HANDSHAKE + b"\r\n")
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(20):
        await gone.wait()
    writer.transport.abort()
