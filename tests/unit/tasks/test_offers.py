"""Slots that a worker offers: how many may be filled at any moment, by its word and ours."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from chassis.errors import Conflict, Invalid, NotFound, Unavailable
from services.tasks.model.states import Priority
from services.tasks.model.task import Accepted
from services.tasks.model.work import Claimed, Pointer
from services.tasks.operations.offers import MOST_ROOM, UNHEARD_SECONDS, Offer, Offers
from tests.support.clock import FakeClock


def claimed(task_id: str) -> Claimed:
    return Claimed(task_id, 1, "automation", b"{}", "ann", 60, 3, "")


async def said(offer: Offer) -> tuple[list[str], int]:
    """What the stream says next: tasks, and how many may come in all."""
    async with asyncio.timeout(20):
        tasks, most = await anext(offer.read())
    return [one.task_id for one in tasks], most


async def opened(most: int, clock: FakeClock | None = None) -> Offer:
    """An offer whose beginning was said."""
    offer = Offer("s", ("automation",), clock or FakeClock())
    offer.hear(most, 0)
    assert await said(offer) == ([], most)
    return offer


def begin(offer: Offer, *task_ids: str) -> None:
    for task_id in task_ids:
        offer.take()
        offer.send(claimed(task_id))


async def test_no_more_is_taken_than_was_said() -> None:
    """In all: what was taken counts from then on, whether it was sent or not; the next word makes room again."""
    offer = await opened(2)
    assert offer.room == 2
    begin(offer, "a")
    offer.take()
    assert offer.room == 0
    assert await said(offer) == (["a"], 2)
    offer.hear(3, 1)
    assert offer.room == 1
    offer.release()
    assert offer.room == 2


async def test_what_is_taken_back_is_confirmed_with_what_holds() -> None:
    """The worker keeps slots free until it hears; one that was being filled stays, and is given up when it was not."""
    offer = await opened(5)
    offer.take()
    offer.hear(0, 0)
    assert (offer.room, await said(offer)) == (0, ([], 1))
    offer.release()
    assert (offer.room, await said(offer)) == (0, ([], 0))
    offer.hear(2, 0)
    assert offer.room == 2


async def test_a_worker_that_says_nothing_gets_no_more() -> None:
    """Until it says that it has something of what was sent; what it hears later counts from then."""
    clock = FakeClock()
    offer = await opened(10, clock)
    clock.advance(60)
    begin(offer, "a", "b")
    assert await said(offer) == (["a", "b"], 10)
    clock.advance(UNHEARD_SECONDS / 2)
    assert offer.room == 8
    clock.advance(UNHEARD_SECONDS)
    assert offer.room == 0
    offer.hear(10, 1)
    assert offer.room == 8
    clock.advance(UNHEARD_SECONDS * 2)
    assert offer.room == 0
    offer.hear(12, 2)
    assert offer.room == 10


@pytest.mark.parametrize("received", [3, 0])
async def test_numbers_that_cannot_be_are_refused(received: int) -> None:
    """More than was sent, or less than before."""
    offer = await opened(10)
    begin(offer, "a", "b")
    await said(offer)
    offer.hear(10, 1)
    with pytest.raises(Invalid):
        offer.hear(10, received)


async def test_a_worker_may_not_offer_without_bound() -> None:
    offer = Offer("s", ("automation",), FakeClock())
    offer.hear(2**63, 0)
    assert offer.room == MOST_ROOM


async def test_an_end_comes_after_what_was_taken() -> None:
    """What is being written is still sent; then nothing comes any more."""
    offer = await opened(5)
    offer.take()
    offer.take()
    offer.end()
    assert offer.room == 0
    reading = asyncio.ensure_future(said(offer))
    await asyncio.sleep(0)
    assert not reading.done()
    offer.send(claimed("a"))
    assert await reading == (["a"], 5)
    offer.release()
    with pytest.raises(StopAsyncIteration):
        await anext(offer.read())


async def test_a_reason_ends_it_at_once() -> None:
    offer = await opened(5)
    offer.take()
    offer.end(NotFound("over"))
    with pytest.raises(NotFound):
        await said(offer)


class World:
    """A process with sessions that can do what their names say, and what was handed back."""

    def __init__(self) -> None:
        self.back: list[tuple[str, list[str]]] = []
        self.away = False
        store: Any = self
        self.offers = Offers(store, self.hand_back, FakeClock())

    async def read_session_kinds(self, session_id: str) -> Sequence[str]:
        return session_id.split()

    async def hand_back(self, session_id: str, pointers: Sequence[Pointer]) -> None:
        if self.away:
            raise Unavailable
        self.back.append((session_id, [one.task_id for one in pointers]))


def task(task_id: str, kind: str = "a", priority: Priority = Priority.NORMAL) -> Any:
    return SimpleNamespace(
        task_id=task_id,
        kind=kind,
        priority=priority,
        payload=b"",
        owner_id="ann",
        timeout_seconds=1,
        max_attempts=1,
        traceparent="",
    )


def accepted(held_by: str = "", pointer_seq: int = 0) -> Accepted:
    nothing: Any = None
    return Accepted(task=nothing, replayed=False, held_by=held_by, pointer_seq=pointer_seq)


async def test_workers_take_turns_and_the_urgent_come_first() -> None:
    """Each gets what it can do, and no more than it has room for."""
    world = World()
    async with world.offers.open("a b") as both, world.offers.open("a") as one:
        both.hear(2, 0)
        one.hear(9, 0)
        tasks = [task("low", "b", Priority.LOW), task("high", "b", Priority.HIGH), task("other", "c")]
        assert world.offers.reserve(tasks[2:]) == {}
        taken = world.offers.reserve([task(str(number)) for number in range(4)])
        assert sorted(offer.session_id for offer in taken.values()) == ["a", "a", "a b", "a b"]
        world.offers.release(taken, in_doubt=False)
        world.offers.reserve([task("x", "b")])
        assert world.offers.reserve(tasks) == {"high": both}
    assert world.back == []


async def test_after_the_commit_each_slot_is_filled_or_free() -> None:
    """A task that was refused, or is another's, frees its slot; one whose session was over ends the stream."""
    world = World()
    async with world.offers.open("a") as offer:
        offer.hear(4, 0)
        tasks = [task(name) for name in ("begun", "refused", "twin", "bounded")]
        taken = world.offers.reserve(tasks)
        world.offers.settle(taken, tasks, [accepted("a"), Conflict("no"), accepted(), accepted()])
        assert offer.room == 3
        assert await said(offer) == (["begun"], 4)
        late = [task("late")]
        world.offers.settle(world.offers.reserve(late), late, [accepted(pointer_seq=7)])
        with pytest.raises(NotFound):
            await said(offer)
    assert world.offers.reserve(tasks) == {}


async def test_what_was_not_sent_is_handed_back_once_it_can_be() -> None:
    """Also what was committed after its stream had ended."""
    world = World()
    tasks = [task("sent"), task("waits"), task("written later")]
    async with world.offers.open("a") as offer:
        offer.hear(3, 0)
        taken = world.offers.reserve(tasks)
        first, others = tasks[:1], tasks[1:2]
        world.offers.settle(taken, first, [accepted("a")])
        await said(offer)
        world.offers.settle(taken, others, [accepted("a")])
    world.offers.settle(taken, tasks[2:], [accepted("a")])
    world.away = True
    with pytest.raises(Unavailable):
        await world.offers.give_back()
    world.away = False
    await world.offers.give_back()
    assert world.back == [("a", ["waits", "written later"])]


async def test_a_process_that_goes_away_begins_nothing_more() -> None:
    world = World()
    async with world.offers.open("a") as offer:
        offer.hear(3, 0)
        await world.offers.close()
        assert world.offers.reserve([task("x")]) == {}
        assert [most async for _, most in offer.read()] == [3]
    with pytest.raises(Unavailable):
        async with world.offers.open("a"):
            pytest.fail("it is open")
