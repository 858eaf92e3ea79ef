"""A client of one connection of the gRPC server, without sockets: it says what it likes, and reads when it likes."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc
from jh2.config import H2Configuration
from jh2.connection import H2Connection
from jh2.events import DataReceived, ResponseReceived, TrailersReceived
from jh2.hyperframe.frame import GoAwayFrame

from chassis.rpc.http2.call import Call
from chassis.rpc.http2.connection import Connection, Served
from chassis.rpc.http2.wire import PREFIX, StatusError

MOST_BYTES = 1024 * 1024
_PAUSE_BYTES = 64 * 1024


class Pipe(asyncio.Transport):
    """Keeps what is written until it is read, and tells the connection to pause as asyncio's transports do."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self.written = bytearray()
        self.reading = True
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data
        if len(self.written) > _PAUSE_BYTES and self.reading:
            self._connection.pause_writing()

    def take(self) -> bytes:
        """All that waits."""
        data = bytes(self.written)
        self.written.clear()
        if not self.reading:
            self._connection.resume_writing()
        return data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        if not self.written:
            self.abort()

    def abort(self) -> None:
        if self._connection is not None:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)


class Handlers:
    """Handlers that remember what became of their calls."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.sent = 0
        self.answered = 0

    async def echo(self, request: bytes, context: Any) -> bytes:
        del context
        return request

    async def wait(self, request: bytes, context: Any) -> bytes:
        del context
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    async def flood(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        del request, context
        while True:
            self.sent += 1
            yield bytes(1000)

    async def deaf(self, requests: AsyncIterator[bytes], context: Call) -> bytes:
        del requests, context
        await asyncio.get_running_loop().create_future()
        return b""

    async def first(self, requests: AsyncIterator[bytes], context: Call) -> bytes:
        del context
        async for request in requests:
            return request
        return b""

    async def together(self, calls: Sequence[Call]) -> list[bytes | StatusError]:
        self.answered += len(calls)
        told: list[bytes | StatusError] = []
        for call in calls:
            try:
                told.append(call.only_message())
            except StatusError as error:
                told.append(error)
        return told

    def by_path(self) -> dict[str, Any]:
        """What a connection serves, but calls that are answered together."""
        return {
            "/s/Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "/s/Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "/s/Flood": grpc.unary_stream_rpc_method_handler(self.flood),
            "/s/Deaf": grpc.stream_unary_rpc_method_handler(self.deaf),
            "/s/First": grpc.stream_unary_rpc_method_handler(self.first),
        }


class Peer:
    """The client's end. `lost` is set once the server knows the connection as lost."""

    def __init__(self, handlers: Handlers) -> None:
        self.served = Served(
            handlers={path.encode(): handler for path, handler in handlers.by_path().items()},
            together={b"/s/Together": handlers.together},
            most_bytes=MOST_BYTES,
        )
        self.lost = asyncio.Event()
        self.connection = Connection(self.served, lambda _: None, lambda _: self.lost.set())
        self.pipe = Pipe(self.connection)
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False))
        # A client that is told goodbye may still say what it had begun.
        self.h2._frame_dispatch_table[GoAwayFrame] = lambda _: ([], [])
        self.answers: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytes] = {}
        self.connection.connection_made(self.pipe)
        self.h2.initiate_connection()
        self._next = -1

    def begin(self, path: str, body: bytes | None = None, extra: Iterable[tuple[bytes, bytes]] = ()) -> int:
        """Begins a call, and ends what it says when there is a body; nothing is sent yet."""
        self._next += 2
        headers = [(b":method", b"POST"), (b":path", path.encode()), (b":scheme", b"http"), (b":authority", b"a")]
        self.h2.send_headers(self._next, [*headers, (b"content-type", b"application/grpc"), *extra])
        if body is not None:
            self.h2.send_data(self._next, PREFIX.pack(0, len(body)) + body, end_stream=True)
        return self._next

    def say(self, raw: bytes = b"") -> None:
        """Sends all that was begun, in one read of the server, and then what `raw` is."""
        if not self.pipe.closed:
            self.connection.data_received(self.h2.data_to_send() + raw)

    async def hear(self, turns: int = 50) -> None:
        """Reads what the server says in so many turns of the loop."""
        for _ in range(turns):
            await asyncio.sleep(0)
            for event in self.h2.receive_data(self.pipe.take()):
                if isinstance(event, ResponseReceived | TrailersReceived):
                    self.answers.setdefault(event.stream_id, {}).update(event.headers)
                if isinstance(event, DataReceived):
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.say()

    def status(self, stream_id: int) -> int | None:
        """How a call ended; None while it goes on."""
        told = self.answers.get(stream_id, {}).get(b"grpc-status")
        return None if told is None else int(told)
