"""The server's end of lanes: takes frames apart, runs their calls, and sends what is finished together.

Knows methods by name and bodies as bytes. A call that is slow holds up no other; a stream's answers wait when the
client is slow to take them.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from time import perf_counter, time_ns
from typing import Any

import grpc
from mesh.lane.v1 import lane_pb2, lane_pb2_grpc

from chassis import telemetry
from chassis.errors import Internal, Invalid, MeshError, Unavailable
from chassis.logging import get_logger
from chassis.rpc.lane_wire import FRAME_BYTES, FRAME_ITEMS, MESSAGE_BYTES, NOT_STARTED
from chassis.rpc.methods import Method
from chassis.rpc.status import to_status

log = get_logger(__name__)

# How long an acknowledgement waits for an answer to ride along with.
_ACKNOWLEDGE_WITHIN_SECONDS = 0.002
_OUTBOX_ITEMS = 1024
_OUTBOX_BYTES = 4 * 1024 * 1024


class LaneServicer(lane_pb2_grpc.LaneServiceServicer):
    """Serves every lane that is opened to this process."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._lanes: set[_Lane] = set()
        self._draining = False

    async def Open(  # type: ignore[override]  # noqa: N802 - the contract's name; it reads and writes by hand
        self,
        request_iterator: AsyncIterator[lane_pb2.OpenRequest],
        context: grpc.aio.ServicerContext[lane_pb2.OpenRequest, lane_pb2.OpenResponse],
    ) -> None:
        """Runs one lane until the client leaves or this process drains. Raises what reader or writer die of."""
        del request_iterator
        lane = _Lane(self._methods, context)
        self._lanes.add(lane)
        if self._draining:
            lane.close()
        try:
            await lane.run()
        finally:
            self._lanes.discard(lane)

    async def drain(self) -> None:
        """Refuses new calls on every lane and waits until those under way have been answered."""
        self._draining = True
        for lane in self._lanes:
            lane.close()
        await asyncio.gather(*(lane.wait_idle() for lane in tuple(self._lanes)))


class _Lane:
    """One stream."""

    def __init__(self, methods: Mapping[str, Method], context: Any) -> None:
        self._methods = methods
        self._context = context
        self._outbox: deque[lane_pb2.Item] = deque()
        self._outbox_bytes = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._batches: set[asyncio.Task[None]] = set()
        self._taken = 0
        self._acknowledged = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    async def run(self) -> None:
        writer = asyncio.get_running_loop().create_task(self._write())
        reader = asyncio.get_running_loop().create_task(self._read())
        try:
            done, _ = await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                if not ended.cancelled():
                    ended.result()
        finally:
            tasks = (reader, writer, *self._calls.values(), *self._batches)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Takes no more calls; the stream ends once those under way are answered."""
        self._closing = True
        self._wake.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    # -- incoming ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while (frame := await self._context.read()) is not grpc.aio.EOF:
            self._taken += 1
            grouped: dict[Method, list[lane_pb2.Item]] = defaultdict(list)
            for item in frame.items:
                if item.kind == lane_pb2.Item.KIND_OPEN:
                    self._open(item, grouped)
                elif item.kind == lane_pb2.Item.KIND_CANCEL and (task := self._calls.get(item.call_id)):
                    task.cancel()
            for method, items in grouped.items():
                batch = loop.create_task(self._answer_batch(method, items))
                self._batches.add(batch)
                batch.add_done_callback(self._batch_ended)
            loop.call_later(_ACKNOWLEDGE_WITHIN_SECONDS, self._acknowledge)

    def _open(self, item: lane_pb2.Item, grouped: dict[Method, list[lane_pb2.Item]]) -> None:
        method = self._methods.get(item.method)
        if self._closing:
            self._fail(item.call_id, Unavailable(code=NOT_STARTED))
        elif method is None:
            self._fail(item.call_id, Internal(private=f"no method {item.method}"))
        else:
            self._idle.clear()
            if method.batch is not None:
                grouped[method].append(item)
                return
            if method.start is not None and self._begin(method, item):
                return
            work: Coroutine[Any, Any, None] = (
                self._answer_stream(method, item) if method.streaming else self._answer(method, item)
            )
            task = asyncio.get_running_loop().create_task(work)
            self._calls[item.call_id] = task
            task.add_done_callback(lambda _: self._call_ended(item.call_id))

    def _begin(self, method: Method, item: lane_pb2.Item) -> bool:
        """Begins a call that needs no task. False: this one does."""
        call_id = item.call_id

        def tell(answer: bytes | MeshError | None) -> None:
            if isinstance(answer, MeshError):
                self._fail(call_id, answer)
            elif answer is not None:
                self._send(call_id, lane_pb2.Item.KIND_END, answer)
            self._call_ended(call_id)

        try:
            future = method.begin(item.body, item.traceparent, tell)
        except MeshError as error:
            self._fail(call_id, error)
            return True
        if future is None:
            return False
        self._calls[call_id] = future
        return True

    def _call_ended(self, call_id: int) -> None:
        self._calls.pop(call_id, None)
        self._settle()

    def _batch_ended(self, batch: asyncio.Task[None]) -> None:
        self._batches.discard(batch)
        self._settle()

    def _settle(self) -> None:
        if not self._calls and not self._batches and not self._outbox:
            self._idle.set()
            if self._closing:
                self._wake.set()

    # -- calls ---------------------------------------------------------------------------------------------------

    async def _answer(self, method: Method, item: lane_pb2.Item) -> None:
        try:
            request = method.parse(item.body)
            answer = await method.answer(request, _CONTEXT, item.traceparent, _timeout_seconds(item))
        except MeshError as error:
            self._fail(item.call_id, error)
        else:
            self._send(item.call_id, lane_pb2.Item.KIND_END, method.serialize(answer))

    async def _answer_stream(self, method: Method, item: lane_pb2.Item) -> None:
        try:
            request = method.parse(item.body)
            async for answer in method.stream(request, _CONTEXT, item.traceparent, _timeout_seconds(item)):
                self._send(item.call_id, lane_pb2.Item.KIND_MESSAGE, method.serialize(answer))
                if len(self._outbox) >= _OUTBOX_ITEMS or self._outbox_bytes >= _OUTBOX_BYTES:
                    self._room.clear()
                    await self._room.wait()
        except MeshError as error:
            self._fail(item.call_id, error)
        else:
            self._send(item.call_id, lane_pb2.Item.KIND_END, b"")

    async def _answer_batch(self, method: Method, items: list[lane_pb2.Item]) -> None:
        began, began_ns = perf_counter(), time_ns()
        requests, taken = [], []
        for item in items:
            try:
                requests.append(method.parse(item.body))
                taken.append(item)
            except Invalid as error:
                self._fail(item.call_id, error)
        answers = await method.answer_all(requests)
        seconds = perf_counter() - began
        for item, answer in zip(taken, answers, strict=True):
            if isinstance(answer, MeshError):
                self._fail(item.call_id, answer)
            else:
                self._send(item.call_id, lane_pb2.Item.KIND_END, method.serialize(answer))
            telemetry.record(method.path[1:], telemetry.SERVER, item.traceparent, began_ns)
        method.observe("OK", seconds)

    # -- outgoing ------------------------------------------------------------------------------------------------

    def _fail(self, call_id: int, error: MeshError) -> None:
        self._send(call_id, lane_pb2.Item.KIND_FAIL, to_status(error).SerializeToString())

    def _send(self, call_id: int, kind: lane_pb2.Item.Kind.ValueType, body: bytes) -> None:
        if len(body) > MESSAGE_BYTES:
            # Within a frame it would break the lane, and with it the calls of everybody else.
            log.error("An answer is too large for a lane", bytes=len(body))
            kind, body = lane_pb2.Item.KIND_FAIL, _TOO_LARGE
            if task := self._calls.get(call_id):
                task.cancel()
        self._outbox.append(lane_pb2.Item(call_id=call_id, kind=kind, body=body))
        self._outbox_bytes += len(body)
        self._wake.set()

    def _acknowledge(self) -> None:
        if self._acknowledged < self._taken:
            self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._closing and self._idle.is_set() and not self._outbox:
                return
            items = self._next_items()
            if not items and self._acknowledged == self._taken:
                continue
            self._acknowledged = self._taken
            await self._context.write(lane_pb2.OpenResponse(items=items, frames_taken=self._taken))
            if self._outbox:
                self._wake.set()
            else:
                self._room.set()
                self._settle()

    def _next_items(self) -> list[lane_pb2.Item]:
        items: list[lane_pb2.Item] = []
        size = 0
        while self._outbox and len(items) < FRAME_ITEMS and size < FRAME_BYTES:
            items.append(self._outbox.popleft())
            size += len(items[-1].body)
        self._outbox_bytes -= size
        return items


class _LaneContext:
    """What a servicer may ask of its call when it comes by lane: nothing beyond the request and the deadline."""

    def invocation_metadata(self) -> tuple[()]:
        return ()


_CONTEXT = _LaneContext()
_TOO_LARGE = to_status(Internal(private="the answer is too large for a lane")).SerializeToString()


def _timeout_seconds(item: lane_pb2.Item) -> float | None:
    return item.timeout_ms / 1000 if item.timeout_ms else None
