"""The client's end of lanes: calls that wait together travel together.

A Lane looks like a grpc.aio channel, so generated stubs work on it as they are. Frames form by themselves, without
timers: only `window` frames are unacknowledged at a time, and what arrives meanwhile is the next frame. With more in
flight the frames shrink and the same machine does less.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from chassis import telemetry
from chassis.config import Discovery
from chassis.discovery import open_discovery
from chassis.errors import DeadlineExceeded, Unavailable
from chassis.lifecycle import Host
from chassis.retry import RetryBudget
from chassis.rpc import deadline
from chassis.rpc.lane_stream import LaneStream
from chassis.rpc.lane_wire import NOT_STARTED
from chassis.rpc.methods import is_idempotent
from chassis.rpc.peer import DEFAULT_TIMEOUT_SECONDS
from chassis.rpc.pool import Instance, Pool
from chassis.rpc.stubbed import Codecs, Stubbed

_ATTEMPTS = 3
# What a reader of a stream may leave lying before its call is given up: others share the lane and must not wait for it.
_UNREAD_BYTES = 4 * 1024 * 1024


@asynccontextmanager
async def open_lane(host: Host, service: str, settings: Discovery, *, window: int = 1) -> AsyncIterator["Lane"]:
    """A lane to every instance of a service for as long as it is open. Never fails because nobody is there yet."""
    async with open_discovery(host, settings) as directory:
        pool = Pool(service, directory, lambda instance: LaneStream(instance, service, window))
        try:
            yield Lane(pool)
        finally:
            await pool.close()


class Lane(Stubbed):
    """A channel whose calls share one stream to each instance.

    Errors, deadlines and repetition as in `chassis.rpc.peer.Peer`. A stream that breaks fails its calls with
    Unavailable; those that had not begun, and idempotent ones, are tried again.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._budget = RetryBudget()

    def make_unary(self, method: str, codecs: Codecs) -> Any:
        return _Unary(self._pool, self._budget, method, codecs)

    def make_stream(self, method: str, codecs: Codecs) -> Any:
        return _Stream(self._pool, self._budget, method, codecs)


class _Callable:
    def __init__(self, pool: Pool, budget: RetryBudget, method: str, codecs: Codecs) -> None:
        self._pool = pool
        self._budget = budget
        self._method = method
        self._serializer, self._deserializer = codecs
        self._idempotent = is_idempotent(method)

    def _may_repeat(self, failure: Unavailable, attempt: int) -> bool:
        safe = failure.code == NOT_STARTED or (self._idempotent and failure.code == Unavailable.default_code)
        if not safe or attempt == _ATTEMPTS - 1 or not self._budget.spend():
            telemetry.RPC_CLIENT_FAILURES.labels(self._pool.service, failure.code).inc()
            return False
        telemetry.RPC_RETRIES.labels(self._pool.service).inc()
        return True

    async def _connected(self, avoid: Instance | None, until: float) -> tuple[Instance, LaneStream]:
        instance = self._pool.pick(avoid=avoid)
        stream: LaneStream = instance.attachment
        if not stream.connected and not await stream.wait_connected(until - deadline.after(0)):
            self._pool.eject(instance)
            raise Unavailable(code=NOT_STARTED, private=f"{self._pool.service}: no connection", retry_after_seconds=1.0)
        return instance, stream


class _Unary(_Callable):
    async def __call__(self, request: Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - grpc's own name
        body = self._serializer(request)
        budget_seconds = deadline.bound(timeout, DEFAULT_TIMEOUT_SECONDS)
        until = deadline.after(budget_seconds)
        self._budget.earn()
        instance: Instance | None = None
        for attempt in range(_ATTEMPTS):
            try:
                instance, stream = await self._connected(instance, until)
                answer = await self._send(instance, stream, body, budget_seconds)
            except Unavailable as failure:
                if not self._may_repeat(failure, attempt):
                    raise _public(failure) from failure
                budget_seconds = until - deadline.after(0)
            else:
                return self._deserializer(answer)
        raise Unavailable(private=f"{self._pool.service}: out of attempts")

    async def _send(self, instance: Instance, stream: LaneStream, body: bytes, timeout_seconds: float) -> bytes:
        if timeout_seconds <= 0:
            raise DeadlineExceeded(private=f"{self._method}: no time left")
        call = stream.start(self._method, body, timeout_seconds)
        instance.in_flight += 1
        try:
            return await call.answer
        except asyncio.CancelledError:
            stream.cancel(call)
            raise
        finally:
            instance.in_flight -= 1


class _Stream(_Callable):
    async def __call__(self, request: Any, *, timeout: float | None = None) -> AsyncIterator[Any]:  # noqa: ASYNC109 - grpc's own name
        body = self._serializer(request)
        # No default here: a stream lives as long as its reader wants it.
        left = deadline.remaining_seconds() if timeout is None else deadline.bound(timeout, timeout)
        until = deadline.after(DEFAULT_TIMEOUT_SECONDS if left is None else left)
        instance, stream = await self._first(until)
        call = stream.start(self._method, body, left, unread_bytes=_UNREAD_BYTES)
        instance.in_flight += 1
        try:
            while True:
                while call.messages:
                    yield self._deserializer(call.take())
                if call.answer.done():
                    call.answer.result()
                    return
                await call.wait()
        except Unavailable as failure:
            raise _public(failure) from failure
        finally:
            instance.in_flight -= 1
            stream.cancel(call)

    async def _first(self, until: float) -> tuple[Instance, LaneStream]:
        instance: Instance | None = None
        for attempt in range(_ATTEMPTS):
            try:
                return await self._connected(instance, until)
            except Unavailable as failure:
                if not self._may_repeat(failure, attempt):
                    raise _public(failure) from failure
        raise Unavailable(private=f"{self._pool.service}: out of attempts")


def _public(failure: Unavailable) -> Unavailable:
    """The failure without the code that only lanes understand."""
    if failure.code != NOT_STARTED:
        return failure
    return Unavailable(private=failure.private, retry_after_seconds=failure.retry_after_seconds or 1.0)
