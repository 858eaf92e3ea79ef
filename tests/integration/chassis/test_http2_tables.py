"""Clients whose memory for headers is smaller than is common, or changes: their answers are those of everybody."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from jh2.hpack.hpack import Decoder, Encoder

from chassis.rpc.http2.call import Call
from chassis.rpc.http2.server import Server
from chassis.rpc.http2.wire import PREFIX, RESPONSE_BLOCK
from tests.integration.chassis.test_http2 import echo, many

COMMON = 4096
METHODS = ("Echo", "Many", "Refused", "Together", "Nothing")
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, ACK, END_HEADERS = 1, 1, 4
# Its headers, what is in its messages, and its trailers.
Answer = tuple[list[tuple[bytes, bytes]], bytes, list[tuple[bytes, bytes]]]


class Client:
    """Frames by hand over a socket, and headers by the codec in plain Python, which tolerates no breach of RFC 7541."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tables: Sequence[int]) -> None:
        self._reader = reader
        self._writer = writer
        self._next = -1
        self._tables: list[int] = []
        self._decoder = Decoder()
        self.encoder = Encoder()
        # The blocks of headers that came, as they travelled.
        self.blocks: list[bytes] = []
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.remember(*(tables or [COMMON]))

    def say(self, kind: int, body: bytes, flags: int = 0, stream_id: int = 0) -> None:
        self._writer.write(struct.pack(">IBI", len(body) << 8 | kind, flags, stream_id) + body)

    def remember(self, *sizes: int) -> None:
        """Announces how much the server's headers may take here, once a frame."""
        for size in sizes:
            self.say(SETTINGS, struct.pack(">HI", 1, size))
        self._tables += sizes

    def begin(self, method: str) -> int:
        """Calls a method; its stream."""
        self._next += 2
        headers = [(":method", "POST"), (":scheme", "http"), (":path", f"/test.Tables/{method}"), (":authority", "a")]
        block = self.encoder.encode([*headers, ("content-type", "application/grpc"), ("x-kept", method)])
        self.say(HEADERS, block, END_HEADERS, self._next)
        self.say(DATA, PREFIX.pack(0, len(method)) + method.encode(), END_STREAM, self._next)
        return self._next

    async def hear(self, *streams: int) -> list[Answer]:
        """Reads until so many calls have ended."""
        heads: dict[int, list[list[tuple[bytes, bytes]]]] = {stream_id: [] for stream_id in streams}
        bodies = dict.fromkeys(streams, b"")
        left = set(streams)
        while left:
            length, kind, flags, stream_id = await self._frame()
            body = await self._reader.readexactly(length)
            if kind == SETTINGS and flags == ACK and self._tables:
                # From here on the server has to keep to it.
                self._decoder.max_allowed_table_size = self._tables.pop(0)
            elif kind == HEADERS:
                self.blocks.append(body)
                heads[stream_id].append([tuple(pair) for pair in self._decoder.decode(body, raw=True)])
            elif kind == DATA:
                bodies[stream_id] += body
            if kind in {HEADERS, DATA} and flags & END_STREAM:
                left.remove(stream_id)
        return [(heads[one][0], bodies[one], heads[one][-1]) for one in streams]

    async def _frame(self) -> tuple[int, int, int, int]:
        high, flags, stream_id = struct.unpack(">IBI", await self._reader.readexactly(9))
        return high >> 8, high & 0xFF, flags, stream_id

    async def calls(self, methods: Sequence[str] = METHODS) -> list[Answer]:
        """Calls all methods at once."""
        async with asyncio.timeout(20):
            return await self.hear(*[self.begin(method) for method in methods])


async def refused(request: bytes, context: Call) -> bytes:
    """Fails, and says more about it."""
    await context.abort(grpc.StatusCode.NOT_FOUND, request.decode(), [("x-more", "of it"), ("x-bin", b"\x00\x01")])


async def together(calls: Sequence[Call]) -> list[bytes]:
    """Answers each call with its message."""
    return [call.only_message() for call in calls]


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Gives what connects to the server as a client that has announced these sizes, one after the other."""
    served = Server(max_message_bytes=1024)
    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Refused": grpc.unary_unary_rpc_method_handler(refused),
    }
    served.add_registered_method_handlers("test.Tables", handlers)
    served.answer_together("/test.Tables/Together", together)
    port = await served.listen("127.0.0.1", 0)
    async with AsyncExitStack() as leaving:

        async def made(*tables: int) -> Client:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            leaving.callback(writer.close)
            return Client(reader, writer, tables)

        yield made
    await served.stop(None)


@pytest.mark.parametrize("tables", [(0,), (1,), (4095,), (0, COMMON), (COMMON, 0), (100, 0, 200), (65_536, 64)])
async def test_who_remembers_less_is_answered_the_same(connect: Connect, tables: tuple[int, ...]):
    """Whatever it announces before its first call, of any kind: each answer is the common one and fits its memory."""
    common = await connect()
    expected = await common.calls()
    assert RESPONSE_BLOCK in common.blocks
    for method, answer in zip(METHODS, expected, strict=True):
        client = await connect(*tables)
        assert [await client.calls([method]) for _ in range(2)] == [[answer]] * 2
        assert client.blocks[0] != RESPONSE_BLOCK
        assert await client.calls() == expected


async def test_memory_may_change_amid_a_connection(connect: Connect):
    """Smaller, larger and smaller again between calls and while they are under way: nothing is answered differently."""
    client = await connect()
    expected = await client.calls()
    for tables in ((0,), (4096,), (50, 0), (0, 4096), (300,), (65_536,), (0,)):
        begun = [client.begin(method) for method in METHODS]
        client.remember(*tables)
        begun += [client.begin(method) for method in METHODS]
        async with asyncio.timeout(20):
            assert await client.hear(*begun) == expected * 2
        assert await client.calls() == expected


async def test_the_memory_for_requests_may_change_in_every_call(connect: Connect):
    """A client that empties, shrinks and grows what the server remembers of its headers is understood all the same."""
    client = await connect()
    expected = await client.calls()
    for size in (0, COMMON, 64, 0, 1, 200, COMMON):
        client.encoder.header_table_size = size
        assert await client.calls() == expected
        client.encoder.header_table_size = 0
        client.encoder.header_table_size = size
        assert await client.calls() == expected
