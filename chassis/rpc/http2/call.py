"""One call: its messages in both directions, its deadline, its end. To handlers it is their `context`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from chassis.logging import get_logger
from chassis.rpc.http2 import wire
from chassis.rpc.http2.wire import Headers, Metadata, StatusError

if TYPE_CHECKING:
    from chassis.rpc.http2.connection import Connection
    from chassis.rpc.http2.together import AnswerTogether

log = get_logger(__name__)

_PREFIX_BYTES = wire.PREFIX.size


class Call:
    """A stream of a connection, from its headers to its status.

    Args:
        handler: what serves it, as generated code registers it; None where many are answered together.
    """

    __slots__ = (
        "_arrived",
        "_buffer",
        "_connection",
        "_headers",
        "_messages",
        "_started",
        "_timer",
        "_until",
        "ended",
        "handler",
        "held_bytes",
        "stream_id",
        "task",
        "together",
        "unread_bytes",
        "whole",
    )

    def __init__(self, connection: "Connection", stream_id: int, headers: Headers, handler: Any) -> None:
        self._connection = connection
        self._headers = headers
        self._buffer = bytearray()
        # Each with whether it is compressed: unpacked once it is read, as many small ones may hold a lot.
        self._messages: deque[tuple[int, bytes]] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._started = False
        self._timer: asyncio.TimerHandle | None = None
        self._until: float | None = None
        self.stream_id = stream_id
        self.handler = handler
        self.task: asyncio.Task[None] | None = None
        self.together: AnswerTogether | None = None
        # What it keeps of requests that the client's window no longer bounds.
        self.held_bytes = 0
        # What it has taken from the client's window and not given back yet.
        self.unread_bytes = 0
        # The client has said all it has to say; the call is over on both sides.
        self.whole = False
        self.ended = False

    # -- what handlers ask of their context ------------------------------------------------------------------------

    def invocation_metadata(self) -> Metadata:
        """What the client sent along. Raises StatusError for binary values that are none."""
        return wire.metadata_of(self._headers)

    def header(self, name: bytes) -> bytes:
        """One of the client's headers; empty when it sent none of that name."""
        for key, value in self._headers:
            if key == name:
                return value
        return b""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, never below 0; None without one."""
        return None if self._until is None else max(0.0, self._until - asyncio.get_running_loop().time())

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF. Raises StatusError for what is none."""
        while not self._messages:
            if self.whole:
                return grpc.aio.EOF
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        packed = self._messages.popleft()
        if not self._messages and self.unread_bytes:
            self._connection.allow(self.stream_id, self.unread_bytes)
            self.unread_bytes = 0
        return self._parsed(self._unpacked(packed))

    async def write(self, message: Any) -> None:
        """Sends a message, as soon as the client takes it."""
        self._start()
        serialize = self.handler.response_serializer
        body = message if serialize is None else serialize(message)
        await self._connection.send(self.stream_id, wire.framed(body))

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """Ends the call with a status. Raises StatusError, always."""
        raise StatusError(code, details, trailing_metadata)

    # -- what the connection brings --------------------------------------------------------------------------------

    def feed(self, data: bytes, credit: int) -> None:
        """Takes what has arrived; `credit` is what it costs the client's window, given back once it was read.

        Raises StatusError, and takes nothing, for a message that this server does not take.
        """
        buffer: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            buffer = self._buffer
        at = 0
        while len(buffer) - at >= _PREFIX_BYTES:
            compressed, size = wire.PREFIX.unpack_from(buffer, at)
            most_bytes = self._connection.most_bytes
            if size > most_bytes:
                raise wire.too_large(most_bytes)
            begin, end = at + _PREFIX_BYTES, at + _PREFIX_BYTES + size
            if end > len(buffer):
                break
            if self._messages and not self._streams:
                raise _not_one()
            self._messages.append((compressed, bytes(buffer[begin:end])))
            at = end
        if at or buffer is data:
            self._buffer = bytearray(buffer[at:])
        self.held_bytes = len(self._buffer)
        if self._messages and self._streams:
            self.unread_bytes += credit
        else:
            # A message may be larger than the window: nobody can read it before all of it is here.
            if credit:
                self._connection.allow(self.stream_id, credit)
            self.held_bytes += self.waiting_bytes
        self._wake()

    @property
    def _streams(self) -> bool:
        return self.handler is not None and bool(self.handler.request_streaming)

    def _unpacked(self, packed: tuple[int, bytes]) -> bytes:
        compressed, body = packed
        return wire.inflated(body, self.header(b"grpc-encoding"), self._connection.most_bytes) if compressed else body

    def finish(self) -> None:
        """The client has said all."""
        self.whole = True
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def only_message(self) -> bytes:
        """The one message of a call that has one. Raises StatusError when there are more or less."""
        if len(self._messages) != 1 or self._buffer:
            raise _not_one()
        return self._unpacked(self._messages[0])

    @property
    def waiting_bytes(self) -> int:
        """How much of messages waits to be read."""
        return sum(len(body) for _, body in self._messages)

    # -- its life ----------------------------------------------------------------------------------------------------

    def limit(self, timeout_seconds: float | None) -> None:
        """Ends the call after so long, whether it has begun or not; None: never."""
        if timeout_seconds is not None:
            loop = asyncio.get_running_loop()
            self._until = loop.time() + timeout_seconds
            self._timer = loop.call_at(self._until, self._expire)

    def begin(self) -> None:
        """Runs the handler."""
        self._spawn(self._run())

    def begin_to_answer(self, body: bytes) -> None:
        """Sends the one answer and the end as the client takes it, or until nobody waits for it any more."""
        self._spawn(self._answer_slowly(body))

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.get_running_loop().create_task(doing)
        self._connection.tasks.add(self.task)
        self.task.add_done_callback(self._done)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._close()
        if self.task is not None:
            self.task.cancel()

    def _expire(self) -> None:
        self.end(StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        self.cancel()

    def _close(self) -> None:
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._connection.tasks.discard(task)
        # One that was cancelled leads back here through its traceback, and would stay until somebody collects garbage.
        self.task = None
        if task.cancelled():
            self.end(StatusError(grpc.StatusCode.CANCELLED, ""))
        elif (error := task.exception()) is not None:
            log.error("A call ended in an error", stream=self.stream_id, exc_info=error)
            self.end(StatusError(grpc.StatusCode.UNKNOWN, "Unexpected error"))

    async def _run(self) -> None:
        try:
            await self._serve()
        except StatusError as error:
            self.end(error)
        else:
            self.end(None)

    async def _serve(self) -> None:
        handler = self.handler
        argument = self._requests() if handler.request_streaming else self._parsed(self.only_message())
        if handler.response_streaming:
            behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream
        else:
            behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary
        answer = behavior(argument, self)
        if hasattr(answer, "__aiter__"):
            async for message in answer:
                await self.write(message)
            return
        result = await answer
        if not handler.response_streaming:
            serialize = handler.response_serializer
            body = result if serialize is None else serialize(result)
            if not self.answer(body):
                await self._answer_slowly(body)

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def _parsed(self, body: bytes) -> Any:
        deserialize = self.handler.request_deserializer
        try:
            return body if deserialize is None else deserialize(body)
        except Exception as error:
            raise StatusError(grpc.StatusCode.INTERNAL, "the request is not of the method's type") from error

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._connection.send_headers(self.stream_id, wire.RESPONSE)

    def answer(self, body: bytes) -> bool:
        """Sends the one answer and the end, if the client takes all of it now."""
        if self.ended or not self._connection.answer(self, wire.framed(body)):
            return False
        self._close()
        return True

    async def _answer_slowly(self, body: bytes) -> None:
        self._start()
        await self._connection.send(self.stream_id, wire.framed(body))
        self.end(None)

    def end(self, error: StatusError | None) -> None:
        """Tells the client how it ended, unless that is known."""
        if self.ended:
            return
        self._close()
        if error is None:
            self._start()
            trailers = wire.OK
        else:
            trailers = wire.status_headers(error.code, error.message, error.metadata)
            if not self._started:
                trailers = wire.RESPONSE + trailers
        self._connection.end(self, trailers)


def _not_one() -> StatusError:
    return StatusError(grpc.StatusCode.INTERNAL, "the call has one message")
