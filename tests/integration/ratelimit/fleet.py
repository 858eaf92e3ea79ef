"""Two limiters as processes under steady load, and the account of what they let pass."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from mesh.ratelimit.v1 import ratelimit_pb2 as pb
from mesh.ratelimit.v1.ratelimit_pb2_grpc import RatelimitServiceStub

from tests.integration.ratelimit.conftest import Service

LIMIT = 120
WINDOW_SECONDS = 2
INSTANCES = 2
_RULE = "{{ name: {name}, algorithm: {algorithm}, per: user, limit: {limit}, window: {window}s }}"
_RULES = {
    "fixed": ("fixed_window", LIMIT),
    "log": ("sliding_window", LIMIT),
    # Above `exact_up_to`, so a ring of buckets.
    "ring": ("sliding_window", LIMIT + 1),
    "bucket": ("token_bucket", LIMIT),
}
KINDS = tuple(_RULES)
_EVERY_SECONDS = 0.01
# Between the instants that a caller sees and the one at which it was decided.
_BLUR_SECONDS = 0.1


def write_rules(path: Path) -> Path:
    """A class for each way to count."""
    classes = "".join(
        f"  {name}.x:\n    - {_RULE.format(name=name, algorithm=algorithm, limit=limit, window=WINDOW_SECONDS)}\n"
        for name, (algorithm, limit) in _RULES.items()
    )
    path.write_text(f"version: 1\nexact_up_to: {LIMIT}\nclasses:\n{classes}", encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True)
class Call:
    """When a call began and ended (Unix seconds), and what each way to count said."""

    began: float
    ended: float
    decisions: Sequence[pb.Decision]


@dataclass
class Account:
    """All calls of all callers."""

    calls: list[Call] = field(default_factory=list)
    # How long each call took that needs no store.
    others: list[float] = field(default_factory=list)

    def admitted(self, kind: str) -> list[Call]:
        index = KINDS.index(kind)
        return sorted((one for one in self.calls if one.decisions[index].allowed), key=lambda call: call.began)

    def degraded_between(self, began: float, ended: float) -> int:
        """Calls of that time that were decided without Redis."""
        return sum(one.decisions[0].degraded for one in self.calls if began <= one.began and one.ended <= ended)

    def most(self, kind: str) -> float:
        """The most that passed in one window, as a part of what should.

        For fixed windows those of the clock, where it is sure in which one a call fell; for a bucket, of every
        interval, what passed against its burst and what flowed in.
        """
        calls = self.admitted(kind)
        if kind == "fixed":
            windows = [
                call.began // WINDOW_SECONDS
                for call in calls
                if call.began // WINDOW_SECONDS == call.ended // WINDOW_SECONDS
            ]
            return max(windows.count(window) for window in set(windows)) / LIMIT
        most = 0.0
        for first, last in _intervals(calls):
            count, seconds = last - first + 1, calls[last].ended - calls[first].began
            if kind == "bucket":
                most = max(most, count / (LIMIT + LIMIT / WINDOW_SECONDS * (seconds + _BLUR_SECONDS)))
            elif seconds <= WINDOW_SECONDS - _BLUR_SECONDS:
                most = max(most, count / LIMIT)
        return most

    def slowest_percent(self) -> tuple[float, float]:
        """The 99th percentile of how long a decision took, in seconds; and of calls between them that need no store,
        which is what the machine takes for itself.
        """
        return _slowest_percent([one.ended - one.began for one in self.calls]), _slowest_percent(self.others)


def _slowest_percent(times: Sequence[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def _intervals(calls: Sequence[Call]) -> Iterator[tuple[int, int]]:
    """First and last call of every interval of at most two windows; longer ones say less."""
    for first, call in enumerate(calls):
        for last in range(first, len(calls)):
            if calls[last].began - call.began > 2 * WINDOW_SECONDS:
                break
            yield first, last


class Fleet:
    """The callers of all services."""

    def __init__(self, services: Sequence[Service], user: str) -> None:
        self.account = Account()
        self._services = services
        subjects = [pb.Subject(route_class=f"{kind}.x", user=user) for kind in KINDS]
        self._request = pb.DecideRequest(subjects=subjects)

    async def run(self, story: Callable[[], Any]) -> None:
        """Calls every service again and again until the story is over. Any error ends it."""
        async with asyncio.TaskGroup() as group:
            ended = asyncio.Event()
            for service in self._services:
                group.create_task(self._call(service, ended))
            await story()
            ended.set()

    async def _call(self, service: Service, ended: asyncio.Event) -> None:
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub: Any = RatelimitServiceStub(channel)
            while not ended.is_set():
                began, since = time.time(), time.monotonic()
                response = await stub.Decide(self._request, timeout=10)
                self.account.calls.append(Call(began, began + time.monotonic() - since, response.decisions))
                await asyncio.sleep(_EVERY_SECONDS / 2)
                since = time.monotonic()
                await stub.GetStatus(pb.GetStatusRequest(), timeout=10)
                self.account.others.append(time.monotonic() - since)
                await asyncio.sleep(_EVERY_SECONDS / 2)

    async def connected(self) -> None:
        """Waits until all services decide with Redis."""
        for service in self._services:
            async with grpc.aio.insecure_channel(service.address) as channel, asyncio.timeout(30):
                stub: Any = RatelimitServiceStub(channel)
                while True:
                    status = await stub.GetStatus(pb.GetStatusRequest(), timeout=10, wait_for_ready=True)
                    if status.store_connected:
                        break
                    await asyncio.sleep(0.02)
