"""One lane to one instance: connects again when it breaks, forms frames, and gives answers to the calls that wait."""

import asyncio
from collections import deque
from itertools import count
from typing import Any

import grpc
from google.rpc import status_pb2
from mesh.lane.v1 import lane_pb2

from chassis import telemetry
from chassis.endless import end, endless
from chassis.errors import DeadlineExceeded, Exhausted, Invalid, Unavailable
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from chassis.rpc.lane_wire import FRAME_BYTES, FRAME_ITEMS, MESSAGE_BYTES, NOT_STARTED, OPEN_PATH
from chassis.rpc.pool import Instance
from chassis.rpc.status import from_status

log = get_logger(__name__)

_CALLS_MOST = 8192
_CONNECT_WITHIN_SECONDS = 1.0


class Call:
    """A call under way. `answer` resolves to the body of a unary answer, or to b"" at the end of a stream."""

    __slots__ = ("_arrived", "_most", "_size", "answer", "id", "messages", "sent", "timer")

    def __init__(self, call_id: int, answer: asyncio.Future[bytes], unread_bytes: int) -> None:
        self.id = call_id
        self.answer = answer
        self.sent = False
        self.timer: asyncio.TimerHandle | None = None
        self.messages: deque[bytes] = deque()
        self._arrived = asyncio.Event() if unread_bytes else None
        self._most = unread_bytes
        self._size = 0

    def put(self, body: bytes) -> bool:
        """Takes one message of a stream; False when its reader has left too much lying."""
        self.messages.append(body)
        self._size += len(body)
        self.notify()
        return self._size <= self._most

    def take(self) -> bytes:
        body = self.messages.popleft()
        self._size -= len(body)
        return body

    def notify(self) -> None:
        if self._arrived is not None:
            self._arrived.set()

    async def wait(self) -> None:
        """Waits for the next message or the end."""
        if self._arrived is not None:
            await self._arrived.wait()
            self._arrived.clear()


class LaneStream:
    """The lane to one instance. `connected` says whether a call would travel at once."""

    def __init__(self, instance: Instance, service: str, window: int) -> None:
        self._instance = instance
        self._service = service
        self._window = window
        self._ids = count(1)
        self._calls: dict[int, Call] = {}
        self._waiting: deque[lane_pb2.Item] = deque()
        self._wake = asyncio.Event()
        self._up = asyncio.Event()
        self._sent = 0
        self._taken = 0
        self._loop = asyncio.get_running_loop()
        self._runner = self._loop.create_task(endless(f"lane {service}", self._run), name=f"lane {service}")

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    async def wait_connected(self, timeout_seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, min(timeout_seconds, _CONNECT_WITHIN_SECONDS))):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    def start(self, method: str, body: bytes, timeout_seconds: float | None, *, unread_bytes: int = 0) -> Call:
        """Puts a call into the next frame. `unread_bytes` > 0 makes it a stream. Raises Exhausted when the lane is
        full.
        """
        if len(self._calls) >= _CALLS_MOST:
            raise Exhausted("Too many calls under way", code="LANE_FULL", retry_after_seconds=0.1)
        if len(body) > MESSAGE_BYTES:
            # Within a frame it would break the lane, and with it the calls of everybody else.
            raise Invalid("The request is too large", code="REQUEST_TOO_LARGE")
        call = Call(next(self._ids), self._loop.create_future(), unread_bytes)
        self._calls[call.id] = call
        timeout_ms = 0
        if timeout_seconds is not None:
            timeout_ms = max(1, int(timeout_seconds * 1000))
            call.timer = self._loop.call_later(timeout_seconds, self._expire, call)
        self._waiting.append(
            lane_pb2.Item(
                call_id=call.id,
                kind=lane_pb2.Item.KIND_OPEN,
                method=method,
                body=body,
                timeout_ms=timeout_ms,
                traceparent=telemetry.current_traceparent(),
            )
        )
        self._wake.set()
        return call

    def cancel(self, call: Call) -> None:
        """Gives a call up; nothing happens when it has ended."""
        if not call.answer.cancel() and not call.answer.cancelled():
            # Who gives up a call that has failed meanwhile does not ask why; asyncio would report a failure unseen.
            call.answer.exception()
        if self._calls.pop(call.id, None) is None:
            return
        _stop_timer(call)
        self._waiting.append(lane_pb2.Item(call_id=call.id, kind=lane_pb2.Item.KIND_CANCEL))
        self._wake.set()

    def _expire(self, call: Call) -> None:
        if not call.answer.done():
            call.answer.set_exception(DeadlineExceeded(private=f"{self._service}: no answer in time"))
            call.notify()
        self.cancel(call)

    async def close(self) -> None:
        """Ends the lane; calls under way fail with Unavailable."""
        await end([self._runner])

    # -- the stream ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        attempt = 0
        while True:
            stream: Any = None
            try:
                open_stream = self._instance.channel.stream_stream(
                    OPEN_PATH,
                    request_serializer=lane_pb2.OpenRequest.SerializeToString,
                    response_deserializer=lane_pb2.OpenResponse.FromString,
                )
                stream = open_stream()
                await stream.wait_for_connection()
                attempt = 0
                self._sent = self._taken = 0
                self._up.set()
                await self._carry(stream)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                # The second comes from a write to a stream that ended between two turns of the loop.
                log.debug("A lane broke", service=self._service, error=repr(error))
            finally:
                self._up.clear()
                self._fail_all()
                if stream is not None:
                    stream.cancel()
            await asyncio.sleep(backoff_seconds(attempt, first=0.05, most=1.0))
            attempt += 1

    async def _carry(self, stream: Any) -> None:
        """Reads and writes until the stream ends."""
        tasks = (self._loop.create_task(self._read(stream)), self._loop.create_task(self._write(stream)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, stream: Any) -> None:
        while True:
            if not self._waiting or self._sent - self._taken >= self._window:
                self._wake.clear()
                await self._wake.wait()
                continue
            frame = lane_pb2.OpenRequest(items=self._next_items())
            self._sent += 1
            await stream.write(frame)

    def _next_items(self) -> list[lane_pb2.Item]:
        items: list[lane_pb2.Item] = []
        size = 0
        while self._waiting and len(items) < FRAME_ITEMS and size < FRAME_BYTES:
            item = self._waiting.popleft()
            if call := self._calls.get(item.call_id):
                call.sent = True
            elif item.kind == lane_pb2.Item.KIND_OPEN:
                continue  # given up before it left
            items.append(item)
            size += len(item.body)
        return items

    async def _read(self, stream: Any) -> None:
        while (frame := await stream.read()) is not grpc.aio.EOF:
            if frame.frames_taken != self._taken:
                self._taken = frame.frames_taken
                self._wake.set()
            for item in frame.items:
                self._deliver(item)
            self._instance.succeeded()

    def _deliver(self, item: lane_pb2.Item) -> None:
        call = self._calls.get(item.call_id)
        if call is None:
            return  # given up meanwhile
        if item.kind == lane_pb2.Item.KIND_MESSAGE:
            if not call.put(item.body) and not call.answer.done():
                call.answer.set_exception(Exhausted("The answer was not read fast enough", code="SLOW_READER"))
                self.cancel(call)
            return
        del self._calls[item.call_id]
        _stop_timer(call)
        if call.answer.done():
            return
        if item.kind == lane_pb2.Item.KIND_FAIL:
            call.answer.set_exception(from_status(status_pb2.Status.FromString(item.body), self._service))
        else:
            call.answer.set_result(item.body)
        call.notify()

    def _fail_all(self) -> None:
        calls, self._calls = self._calls, {}
        self._waiting.clear()
        for call in calls.values():
            _stop_timer(call)
            if not call.answer.done():
                code = Unavailable.default_code if call.sent else NOT_STARTED
                call.answer.set_exception(Unavailable(code=code, private=f"{self._service}: the lane broke"))
            call.notify()


def _stop_timer(call: Call) -> None:
    if call.timer is not None:
        call.timer.cancel()
