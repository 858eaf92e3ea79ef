"""Couriers over a store and an endpoint that a test holds in its hands."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from chassis import telemetry
from chassis.errors import Unavailable
from services.tasks.model.signing import make_secret
from services.tasks.model.tries import Bounds, Policy, Share
from services.tasks.model.webhooks import Answer, DeliveryState, Parcel, Settlement
from services.tasks.operations import deliveries
from services.tasks.operations.deliveries import Couriers
from tests.support.clock import FakeClock

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
BOUNDS = Bounds(
    policy=Policy(),
    timeout_seconds=5.0,
    failing_seconds=3600.0,
    most_under_way=2,
    share=Share(per_webhook=2, per_owner=2),
    most_waiting=100,
    retained_days=14,
)


def parcel(number: int) -> Parcel:
    return Parcel(
        delivery_id=f"dlv_{number}",
        webhook_id="hook_1",
        number=1,
        url="https://example.com",
        secrets=(make_secret(),),
        event_id=f"evt_{number}",
        type="task.completed",
        payload=b'{"data":{}}',
        traceparent=TRACE,
        failures=0,
        tries=(),
        lost=False,
    )


class World:
    """The store and the endpoints in one."""

    def __init__(self, waiting: int) -> None:
        self.clock = FakeClock()
        self.waiting = [parcel(number) for number in range(waiting)]
        self.posted: list[str] = []
        self.faulty: set[str] = set()
        self.traces: list[str] = []
        self.settled: list[tuple[str, DeliveryState]] = []
        self.returned: list[str] = []
        self.asked: list[dict[str, int]] = []
        self.away = 0
        self.disabled = False
        self.given_up: list[str] = []
        self.answering = asyncio.Event()
        self.changed = asyncio.Event()

    async def take(self, limit: int, share: Share, under_way: Mapping[str, int], **_: Any) -> Any:
        self.asked.append(dict(under_way))
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return len(taken), taken

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.posted.append(headers["webhook-id"])
        self.traces.append(telemetry.current_traceparent())
        self.changed.set()
        await self.answering.wait()
        if headers["webhook-id"] in self.faulty:
            raise OverflowError
        return Answer(status=204)

    async def settle_delivery(self, one: Parcel, settlement: Settlement, failing_seconds: float) -> bool:
        if self.away:
            self.away -= 1
            self.clock.advance(10)
            raise Unavailable(code="DATABASE_ERROR")
        self.settled.append((one.event_id, settlement.state))
        self.changed.set()
        return self.disabled

    async def give_up(self, webhook_id: str, words: str, limit: int) -> int:
        self.given_up.append(webhook_id)
        self.changed.set()
        return 0

    async def give_back(self, parcels: list[Parcel]) -> None:
        self.returned += [one.event_id for one in parcels]

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(30):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def running(world: World) -> AsyncIterator[Couriers]:
    couriers = Couriers(world, world, clock=world.clock, bounds=BOUNDS)  # type: ignore[arg-type]  # what is asked
    loop = asyncio.ensure_future(couriers.run())
    try:
        yield couriers
    finally:
        loop.cancel()
        (ended,) = await asyncio.gather(loop, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            pytest.fail(f"the loop died: {ended!r}")


async def test_no_more_is_taken_than_there_are_places() -> None:
    """The next ones when the first are settled, and the store is told what is under way."""
    world = World(5)
    async with running(world):
        await world.until(lambda: len(world.posted) == 2)
        assert len(world.waiting) == 3
        world.answering.set()
        await world.until(lambda: len(world.settled) == 5)
    assert world.posted == [f"evt_{number}" for number in range(5)]
    assert world.asked[0] == {}


async def test_a_fault_on_the_way_is_a_failed_try() -> None:
    """The tries of all others go on."""
    world = World(3)
    world.answering.set()
    world.faulty.add("evt_0")
    async with running(world):
        await world.until(lambda: len(world.settled) == 3)
    assert dict(world.settled) == {
        "evt_0": DeliveryState.WAITING, "evt_1": DeliveryState.DELIVERED, "evt_2": DeliveryState.DELIVERED
    }  # fmt: skip


async def test_a_database_that_is_away_delays_the_writing_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is posted again for it."""
    monkeypatch.setattr(deliveries, "_SETTLE_AGAIN_SECONDS", 0)
    world = World(1)
    world.answering.set()
    world.away = 1
    async with running(world):
        await world.until(lambda: bool(world.settled))
    assert (world.posted, world.settled) == (["evt_0"], [("evt_0", DeliveryState.DELIVERED)])


async def test_what_cannot_be_written_down_is_left_to_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up when others may have it, and goes on with the next."""
    monkeypatch.setattr(deliveries, "_SETTLE_AGAIN_SECONDS", 0)
    world = World(1)
    world.answering.set()
    world.away = 2
    async with running(world) as couriers:
        await world.until(lambda: bool(world.posted))
        async with asyncio.timeout(30):
            while world.away:
                await asyncio.sleep(0)
        world.waiting = [parcel(1)]
        couriers.awake.set()
        await world.until(lambda: bool(world.settled))
    assert [event_id for event_id, _ in world.settled] == ["evt_1"]


async def test_the_end_of_a_webhook_gives_up_what_waits() -> None:
    """At once, not when each would be due."""
    world = World(1)
    world.answering.set()
    world.disabled = True
    async with running(world):
        await world.until(lambda: bool(world.given_up))
    assert world.given_up == ["hook_1"]


async def test_a_drain_waits_a_little_and_gives_back_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is nobody's again, and nothing new is taken."""
    monkeypatch.setattr(deliveries, "_DRAIN_SECONDS", 0)
    world = World(5)
    async with running(world) as couriers:
        await world.until(lambda: len(world.posted) == 2)
        await couriers.drain()
        couriers.awake.set()
        await asyncio.sleep(0)
    assert sorted(world.returned) == ["evt_0", "evt_1"]
    assert (len(world.waiting), world.settled) == (3, [])


async def test_a_try_belongs_to_the_trace_of_what_it_tells() -> None:
    """And it is counted, as is the end of its delivery."""

    def counted(name: str, outcome: str) -> float:
        return REGISTRY.get_sample_value(f"mesh_webhook_{name}_total", {"outcome": outcome}) or 0

    before = counted("tries", "well"), counted("deliveries", "delivered")
    world = World(1)
    world.answering.set()
    async with running(world):
        await world.until(lambda: bool(world.settled))
    assert world.traces == [TRACE]
    assert (counted("tries", "well"), counted("deliveries", "delivered")) == (before[0] + 1, before[1] + 1)
