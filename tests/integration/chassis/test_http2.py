"""The server's own ways with clients that are grpc.aio's channels, and with some that keep to no protocol."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from chassis.rpc.http2.call import Call
from chassis.rpc.http2.server import Server

MOST_BYTES = 1024 * 1024
SERVICE = "test.Echo"


async def echo(request: bytes, context: Any) -> bytes:
    """Answers what it was asked."""
    del context
    return request


async def many(request: bytes, context: Call) -> AsyncIterator[bytes]:
    """Answers the request, as often as its length says."""
    del context
    for _ in request:
        yield request


async def last(requests: AsyncIterator[bytes], context: Call) -> bytes:
    """Answers the last of several requests, and nothing without any."""
    del context
    found = b""
    async for request in requests:
        found = request
    return found


async def together(calls: Sequence[Call]) -> list[bytes]:
    """Answers each call with its message and how many came together."""
    return [b"%d %s" % (len(calls), call.only_message()) for call in calls]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server(max_message_bytes=MOST_BYTES)
    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Last": grpc.stream_unary_rpc_method_handler(last),
    }
    served.add_registered_method_handlers(SERVICE, handlers)
    served.answer_together(f"/{SERVICE}/Together", together)
    yield served
    await served.stop(None)


@pytest.fixture
async def port(server: Server) -> int:
    return await server.listen("127.0.0.1", 0)


@pytest.fixture
async def channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made


async def status_of(call: Any) -> grpc.StatusCode:
    """The status that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    code: grpc.StatusCode = caught.value.code()
    return code


async def test_calls_that_come_together_are_answered_together(channel: Any):
    """Each of a hundred calls gets its own answer, and some came with others."""
    method = channel.unary_unary(f"/{SERVICE}/Together")
    answers = await asyncio.gather(*(method(b"%d" % n) for n in range(100)))
    assert [answer.split()[1] for answer in answers] == [b"%d" % n for n in range(100)]
    assert any(not answer.startswith(b"1 ") for answer in answers)


@pytest.mark.parametrize("method", ["Echo", "Together"])
async def test_messages_beyond_every_window_arrive(channel: Any, method: str):
    """Messages of a megabyte, several at once, pass both ways."""
    bodies = [bytes([n]) * (MOST_BYTES - n) for n in range(8)]
    answers = await asyncio.gather(*(channel.unary_unary(f"/{SERVICE}/{method}")(body) for body in bodies))
    assert [answer[-len(body) :] for answer, body in zip(answers, bodies, strict=True)] == bodies


async def test_a_message_that_is_too_large_fails_alone(channel: Any):
    """It ends with RESOURCE_EXHAUSTED, and the connection serves on."""
    method = channel.unary_unary(f"/{SERVICE}/Echo")
    assert await status_of(method(bytes(MOST_BYTES + 1))) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await method(b"after") == b"after"


async def test_compressed_requests_are_read(channel: Any):
    """A client may compress; the answer is what it would have been."""
    method = channel.unary_unary(f"/{SERVICE}/Echo")
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert await method(b"x" * 10_000, compression=compression) == b"x" * 10_000


async def test_a_method_that_nobody_serves_is_unimplemented(channel: Any):
    """Also when the client streams."""
    assert await status_of(channel.unary_unary("/test.Echo/Nothing")(b"")) is grpc.StatusCode.UNIMPLEMENTED
    assert await status_of(channel.stream_unary("/test.Nobody/Echo")(iter([b""]))) is grpc.StatusCode.UNIMPLEMENTED


async def test_streams_go_both_ways(channel: Any):
    """A stream of answers arrives whole, and so does a stream of requests, also one of none."""
    answers = channel.unary_stream(f"/{SERVICE}/Many")(b"x" * 500)
    assert [answer async for answer in answers] == [b"x" * 500] * 500
    method = channel.stream_unary(f"/{SERVICE}/Last")
    assert await method(iter([b"%d" % n for n in range(1000)])) == b"999"
    assert await method(iter([])) == b""


async def test_who_breaks_the_protocol_ends_its_own_connection(channel: Any, port: int):
    """HTTP/1 and frames that cannot be end their connection, and another one is served meanwhile."""
    for noise in (b"GET / HTTP/1.1\r\n\r\n" * 4, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(noise)
        async with asyncio.timeout(10):
            while await reader.read(1000):
                pass
        writer.close()
        assert await channel.unary_unary(f"/{SERVICE}/Echo")(b"meanwhile") == b"meanwhile"


async def test_a_server_that_stops_is_gone(server: Server, channel: Any, port: int):
    """After it has stopped, its port is free and calls are UNAVAILABLE."""
    method = channel.unary_unary(f"/{SERVICE}/Echo")
    assert await method(b"before") == b"before"
    await server.stop(5)
    assert await status_of(method(b"after")) is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_an_old_connection_is_renewed():
    """Calls go on over new connections when the server ends those that are too old."""
    served = Server(max_message_bytes=MOST_BYTES, max_age_seconds=0.05, grace_seconds=1)
    served.add_registered_method_handlers(SERVICE, {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    port = await served.listen("127.0.0.1", 0)
    client: Any = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    async with client as channel:
        method = channel.unary_unary(f"/{SERVICE}/Echo")
        for n in range(100):
            assert await method(b"%d" % n, wait_for_ready=True) == b"%d" % n
            await asyncio.sleep(0.003)
    await served.stop(None)
