"""Calls to another service, one RPC each: pick an instance, bound the time, retry what may be retried, translate
errors.

A Peer looks like a grpc.aio channel, so generated stubs work on it as they are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from chassis import telemetry
from chassis.config import Discovery
from chassis.discovery import open_discovery
from chassis.errors import DeadlineExceeded, MeshError, Unavailable
from chassis.lifecycle import Host
from chassis.retry import RetryBudget, backoff_seconds
from chassis.rpc import deadline
from chassis.rpc.methods import is_idempotent
from chassis.rpc.pool import Instance, Pool
from chassis.rpc.status import DETAILS_KEY, from_rpc_error
from chassis.rpc.stubbed import Codecs, Stubbed

DEFAULT_TIMEOUT_SECONDS = 10.0
_ATTEMPTS = 3
_TRANSPORT_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@asynccontextmanager
async def open_peer(host: Host, service: str, settings: Discovery) -> AsyncIterator["Peer"]:
    """A channel to a service for as long as it is open. Never fails because nobody is there yet."""
    async with open_discovery(host, settings) as directory:
        pool = Pool(service, directory)
        try:
            yield Peer(pool)
        finally:
            await pool.close()


class Peer(Stubbed):
    """A channel to all instances of one service.

    Calls raise `chassis.errors` only. A call without ``timeout`` takes at most 10 s, and no call outlives the request
    it is made for. Methods whose contract says so are tried up to three times, on another instance where there is
    one; others are tried again only when it is certain that nothing was sent.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._budget = RetryBudget()

    def make_unary(self, method: str, codecs: Codecs) -> Any:
        return _Unary(self._pool, self._budget, method, codecs)

    def make_stream(self, method: str, codecs: Codecs) -> Any:
        return _Stream(self._pool, method, codecs)

    def make_conversation(self, method: str, codecs: Codecs) -> Any:
        return _Conversation(self._pool, method, codecs)


class _Callable:
    def __init__(self, pool: Pool, method: str, codecs: Codecs) -> None:
        self._pool = pool
        self._method = method
        self._serializer, self._deserializer = codecs

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        traceparent = telemetry.current_traceparent()
        return (("traceparent", traceparent),) if traceparent else ()

    async def _connect(self, instance: Instance, timeout_seconds: float) -> None:
        """Raises Unavailable when the connection does not stand: nothing has been sent then."""
        if not await instance.wait_ready(timeout_seconds):
            self._pool.eject(instance)
            raise Unavailable(private=f"{self._pool.service}: no connection", retry_after_seconds=1.0)

    def _translate(self, error: grpc.aio.AioRpcError, instance: Instance) -> MeshError:
        failure = from_rpc_error(error, self._pool.service)
        if error.code() in _TRANSPORT_CODES and not _has_details(error):
            self._pool.eject(instance)
        else:
            instance.succeeded()
        telemetry.RPC_CLIENT_FAILURES.labels(self._pool.service, failure.code).inc()
        return failure


class _Unary(_Callable):
    def __init__(self, pool: Pool, budget: RetryBudget, method: str, codecs: Codecs) -> None:
        super().__init__(pool, method, codecs)
        self._budget = budget
        self._idempotent = is_idempotent(method)

    async def __call__(self, request: Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - grpc's own name
        until = deadline.after(deadline.bound(timeout, DEFAULT_TIMEOUT_SECONDS))
        self._budget.earn()
        instance: Instance | None = None
        for attempt in range(_ATTEMPTS):
            instance = self._pool.pick(avoid=instance)
            sent = False
            try:
                left = until - deadline.after(0)
                await self._connect(instance, left)
                sent = True
                return await self._send(instance, request, until - deadline.after(0))
            except Unavailable as failure:
                may_repeat = not sent or (self._idempotent and failure.code == Unavailable.default_code)
                if not may_repeat or attempt == _ATTEMPTS - 1 or not self._budget.spend():
                    raise
            telemetry.RPC_RETRIES.labels(self._pool.service).inc()
            await asyncio.sleep(min(backoff_seconds(attempt), max(0.0, until - deadline.after(0))))
        raise Unavailable(private=f"{self._pool.service}: out of attempts")

    async def _send(self, instance: Instance, request: Any, timeout_seconds: float) -> Any:
        if timeout_seconds <= 0:
            raise DeadlineExceeded(private=f"{self._method}: no time left")
        send = instance.channel.unary_unary(self._method, self._serializer, self._deserializer)
        instance.in_flight += 1
        try:
            answer = await send(request, timeout=timeout_seconds, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise self._translate(error, instance) from error
        finally:
            instance.in_flight -= 1
        instance.succeeded()
        return answer


class _Stream(_Callable):
    async def __call__(self, request: Any, *, timeout: float | None = None) -> AsyncIterator[Any]:  # noqa: ASYNC109 - grpc's own name
        # No default here: a stream lives as long as its reader wants it.
        left = deadline.remaining_seconds() if timeout is None else deadline.bound(timeout, timeout)
        instance = self._pool.pick()
        await self._connect(instance, DEFAULT_TIMEOUT_SECONDS if left is None else left)
        open_stream = self._opener(instance.channel)(self._method, self._serializer, self._deserializer)
        instance.in_flight += 1
        call = open_stream(request, timeout=left, metadata=self._metadata())
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._translate(error, instance) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Its channel was closed: the instance left some time ago.
            raise Unavailable(private=f"{self._method}: the instance has left") from None
        finally:
            instance.in_flight -= 1
            call.cancel()

    @staticmethod
    def _opener(channel: grpc.aio.Channel) -> Any:
        return channel.unary_stream


class _Conversation(_Stream):
    """Takes an async iterator of requests, which is read as long as the stream is open."""

    @staticmethod
    def _opener(channel: grpc.aio.Channel) -> Any:
        return channel.stream_stream


def _has_details(error: grpc.aio.AioRpcError) -> bool:
    """Whether the peer itself answered: only then are there details."""
    metadata = error.trailing_metadata()
    return metadata is not None and DETAILS_KEY in metadata
