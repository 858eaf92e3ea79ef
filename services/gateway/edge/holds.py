"""The places that this process's requests hold under limits of requests at the same time.

Takes them over when a decision has given them, renews them while requests run, and gives each back once. A place that
nobody renews for a lease is free again, so a process that dies leaves nothing behind. What is left over of reservations
goes back along with them.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from itertools import count
from math import ceil
from secrets import token_hex

from mesh.ratelimit.v1 import ratelimit_pb2, ratelimit_pb2_grpc
from prometheus_client import CollectorRegistry, Counter, Gauge

from chassis.clock import Clock
from chassis.errors import MeshError
from chassis.logging import get_logger

log = get_logger(__name__)

# What ends within this time goes back in one call.
_GATHER_SECONDS = 0.002
_MOST_A_CALL = 500
_CALL_SECONDS = 1.0
_TRY_AGAIN_SECONDS = 0.25
# The rules allow no longer lease: a place that could not be given back for so long is free without it.
_LONGEST_LEASE_SECONDS = 10.0
# Two renewals may fail before a lease ends.
_RENEWALS_A_LEASE = 3
# How often somebody looks whether a renewal is due.
_LOOK_SECONDS = 0.5


class Holds:
    """Holds by id, and what is to be given back.

    `run` must run in the background; `open` gives everything back at the end.
    """

    def __init__(
        self, service: "ratelimit_pb2_grpc.RatelimitServiceAsyncStub", clock: Clock, registry: CollectorRegistry
    ) -> None:
        self._service = service
        self._clock = clock
        # No other process, and no earlier life of this one, makes the same ids.
        self._prefix = token_hex(8)
        self._numbers = count()
        self._held: dict[str, ratelimit_pb2.Subject] = {}
        self._lease_seconds = _LONGEST_LEASE_SECONDS
        # Each with the time after which it need not be given back any more.
        self._ended: deque[tuple[ratelimit_pb2.Subject, float]] = deque()
        # Each with the time at which its cost was asked for.
        self._refunds: deque[tuple[ratelimit_pb2.Refund, float]] = deque()
        self._wake = asyncio.Event()
        self._lost = Counter(
            "mesh_ratelimit_holds_lost", "Holds whose lease ended before their request", registry=registry
        )
        held = Gauge("mesh_ratelimit_holds", "Requests that hold a place now", registry=registry)
        held.set_function(lambda: len(self._held))

    def new_id(self) -> str:
        """An id for the next request."""
        return f"{self._prefix}-{next(self._numbers):x}"

    def take(self, subject: ratelimit_pb2.Subject, lease_seconds: int) -> None:
        """The decision gave this subject its places, for one lease at first."""
        if not self._held:
            self._lease_seconds = _LONGEST_LEASE_SECONDS
        self._lease_seconds = min(self._lease_seconds, lease_seconds)
        self._held[subject.hold] = subject

    def release(self, subject: ratelimit_pb2.Subject) -> None:
        """Gives places back, at once and without waiting; also those that a subject may have got or not."""
        self._held.pop(subject.hold, None)
        self._ended.append((subject, self._clock.monotonic() + _LONGEST_LEASE_SECONDS))
        self._wake.set()

    def ended(self) -> list[ratelimit_pb2.Subject]:
        """Takes out what is to be released, for whoever asks the service something anyway: so it is released before
        the next request of the same caller is decided. Whoever could not tell it gives it back with `release`.
        """
        if not self._ended:
            return []
        return [self._ended.popleft()[0] for _ in range(min(len(self._ended), _MOST_A_CALL))]

    def refunds(self) -> list[ratelimit_pb2.Refund]:
        """Takes out what is to be refunded, as `ended` does. Nobody repeats it when it is not certain that it was told:
        twice would give back too much.
        """
        taken: list[ratelimit_pb2.Refund] = []
        if not self._refunds:
            return taken
        now = self._clock.monotonic()
        while self._refunds and len(taken) < _MOST_A_CALL:
            refund, asked_at = self._refunds.popleft()
            refund.age_ms = ceil((now - asked_at) * 1000)
            taken.append(refund)
        return taken

    def refund(self, subject: ratelimit_pb2.Subject, amount: int, asked_at: float) -> None:
        """Gives back a part of what a decision took that was asked for at that (monotonic) time."""
        self._refunds.append((ratelimit_pb2.Refund(subject=subject, amount=amount), asked_at))
        self._wake.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Gives back what is still held when it closes, as far as that can be told to anybody."""
        try:
            yield
        finally:
            for subject in list(self._held.values()):
                self.release(subject)
            await self._refund()
            while self._ended and await self._give_back():
                continue

    async def run(self) -> None:
        """Renews and gives back, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renewing())
            group.create_task(self._giving_back())

    async def _giving_back(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._wake.clear()
            await self._refund()
            while self._ended:
                if not await self._give_back():
                    await asyncio.sleep(_TRY_AGAIN_SECONDS)

    async def _give_back(self) -> bool:
        """One call; False when it failed, and what it was about waits for the next, unless its lease is over."""
        now = self._clock.monotonic()
        batch = [self._ended.popleft() for _ in range(min(len(self._ended), _MOST_A_CALL))]
        batch = [(subject, until) for subject, until in batch if until > now]
        if not batch:
            return True
        request = ratelimit_pb2.ReleaseRequest(subjects=[subject for subject, _ in batch])
        told = False
        try:
            told = await _answered(self._service.Release(request, timeout=_CALL_SECONDS))
        finally:
            # Also when the process ends meanwhile: what closes it tries once more.
            if not told:
                self._ended.extendleft(reversed(batch))
        return told

    async def _refund(self) -> None:
        while refunds := self.refunds():
            await _answered(self._service.Refund(ratelimit_pb2.RefundRequest(refunds=refunds), timeout=_CALL_SECONDS))

    async def _renewing(self) -> None:
        renewed_at = self._clock.monotonic()
        while True:
            pause = self._lease_seconds / _RENEWALS_A_LEASE
            await asyncio.sleep(min(_LOOK_SECONDS, pause))
            now = self._clock.monotonic()
            if not self._held:
                renewed_at = now
            elif now - renewed_at >= pause:
                # After a failure the next look tries again.
                renewed_at = now if await self.renew() else renewed_at

    async def renew(self) -> bool:
        """Prolongs every hold by one lease from now; False when that could not be told."""
        subjects = list(self._held.values())
        for first in range(0, len(subjects), _MOST_A_CALL):
            batch = subjects[first : first + _MOST_A_CALL]
            try:
                answer = await self._service.Renew(ratelimit_pb2.RenewRequest(subjects=batch), timeout=_CALL_SECONDS)
            except MeshError as error:
                log.warning("Holds could not be renewed", holds=len(subjects), error=str(error))
                return False
            for subject, held in zip(batch, answer.held, strict=True):
                if not held and self._held.pop(subject.hold, None) is not None:
                    # Its request goes on: what it has begun is not broken off because a limiter was away.
                    self._lost.inc()
        return True


async def _answered(call: Awaitable[object]) -> bool:
    try:
        await call
    except MeshError as error:
        log.debug("What ended could not be given back", error=str(error))
        return False
    return True
