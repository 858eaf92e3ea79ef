"""A runner that leaves its queues because nothing of them can be claimed, and comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.errors import Unavailable
from tests.unit.worker.test_runner import Rig, rig
from worker.feed import Take


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runner._LOOK_SECONDS", 0.001)


@pytest.fixture
def _returns_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a busy machine is not too late for what happens meanwhile."""
    monkeypatch.setattr("worker.runner._RETURN_SECONDS", 1.0)


async def test_a_full_worker_leaves_its_queues_to_others():
    """All slots are taken for more than 3 s: the queues are left, and taken again as soon as a slot is free."""
    async with rig(slots=1) as it:
        await it.push("t1")
        await it.until(lambda: it.work.started)
        (waiting,) = await it.push("t2")
        it.clock.advance(2.9)
        await asyncio.sleep(0.05)
        assert it.feed.take is not None
        it.clock.advance(0.2)
        await it.until(lambda: it.feed.take is None)
        await asyncio.sleep(0.05)
        assert it.feed.opened == 1
        it.work.go.set()
        await it.until(lambda: it.feed.opened == 2)
        assert not waiting.acked
        # What came back to the queue is not claimed from here, but from there.
        await asyncio.sleep(0.2)
        assert it.work.started == [("t1", 1)]
        await it.push("t2")
        await it.until(lambda: it.work.started == [("t1", 1), ("t2", 1)])


@pytest.mark.usefixtures("_returns_slowly")
async def test_a_worker_that_comes_back_begins_with_the_most_urgent():
    """Also if less urgent ones arrive before; until it knows, it offers no slot either."""
    async with rig(slots=1) as it:
        await it.push("t1")
        await it.until(lambda: it.work.started)
        await it.push("t2")
        offered = len(it.tasks.called("Offer"))
        it.clock.advance(3.1)
        await it.until(lambda: it.feed.take is None)
        it.work.go.set()
        await it.feed.push("low", priority_class=3)
        await asyncio.sleep(0.02)
        await it.feed.push("critical", priority_class=0)
        assert it.work.started == [("t1", 1)]
        assert all(request.most - request.received <= 0 for request in it.tasks.called("Offer")[offered:])
        await it.until(lambda: len(it.work.started) == 3)
        assert [task_id for task_id, _ in it.work.started] == ["t1", "critical", "low"]


@pytest.mark.usefixtures("_returns_slowly")
async def test_a_worker_that_finds_nothing_when_it_comes_back_offers_its_slots():
    """Others did what had waited."""
    async with rig(slots=8) as it:
        await it.push(*(f"t{number}" for number in range(8)))
        await it.until(lambda: len(it.work.started) == 8)
        await it.push("t8")
        it.clock.advance(3.1)
        await it.until(lambda: it.feed.take is None)
        it.work.go.set()
        await it.until(lambda: it.feed.opened == 2)
        said = it.tasks.called("Offer")
        assert said[-1].most - said[-1].received <= 0
        await it.until(lambda: (last := it.tasks.called("Offer")[-1]).most - last.received == 7)


async def test_pointers_that_cannot_be_claimed_go_back():
    """There are slots, but nobody answers claims: another process may have more luck, half a minute later."""
    async with rig() as it:
        it.tasks.failures["Claim"] = [Unavailable()] * 1000
        await it.push("t1")
        await it.until(lambda: it.tasks.called("Claim"))
        it.clock.advance(29.0)
        await asyncio.sleep(0.05)
        assert it.feed.opened == 1
        it.clock.advance(2.0)
        await it.until(lambda: it.feed.opened == 2)
        assert it.work.started == []


async def leave(it: Rig, slots: int) -> list[pb.OfferRequest]:
    """Fills all slots, and has the queues left. Answers the words about offered slots until then."""
    await it.push(*(f"t{number}" for number in range(slots)))
    await it.until(lambda: len(it.work.started) == slots)
    await it.push("waits")
    it.clock.advance(3.1)
    await it.until(lambda: it.feed.take is None)
    return it.tasks.called("Offer")


@pytest.mark.usefixtures("_returns_slowly")
@pytest.mark.parametrize("breaks", ["session", "stream"])
async def test_a_new_stream_offers_nothing_until_it_is_known_what_waits(breaks: str):
    """Its session was lost while it was away, or its stream."""
    async with rig(slots=8) as it:
        before = await leave(it, 8)
        if breaks == "session":
            it.tasks.alive.discard("s1")
            it.runner._sessions.suspect()
        else:
            it.tasks.offers["s1"].put_nowait(Unavailable())
        it.work.go.set()
        await it.until(lambda: it.feed.opened == 2)
        await asyncio.sleep(0.05)
        assert it.runner._away
        assert all(word.most <= word.received for word in it.tasks.called("Offer")[len(before) :])
        await it.until(lambda: it.tasks.called("Offer")[-1].most - it.tasks.called("Offer")[-1].received == 7)


async def test_a_feed_that_is_cancelled_from_within_is_opened_again():
    """As a library may cancel what its closing waits for: the worker goes on."""
    async with rig(slots=1) as it:
        opened = it.feed.open

        @asynccontextmanager
        async def open_(take: Take) -> AsyncIterator[None]:
            async with opened(take):
                yield
            if it.feed.opened == 1:
                raise asyncio.CancelledError

        it.feed.open = open_  # type: ignore[method-assign]  # one that ends badly
        await leave(it, 1)
        it.work.go.set()
        await it.until(lambda: it.feed.opened == 2)
        await it.push("waits")
        await it.until(lambda: it.work.started[1:] == [("waits", 1)])
