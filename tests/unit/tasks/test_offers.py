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
        tasks, most, _ = await anext(offer.read())
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


async def test_an_answer_says_what_it_has_heard() -> None:
    """So that the worker knows which of its words it has regard to."""
    offer = await opened(5)
    offer.hear(6, 0)
    offer.hear(2, 0)
    assert await anext(offer.read()) == ([], 2, 3)


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


A, AB = (f"ses_{letter * 26}" for letter in "AB")
KINDS = {A: ("a",), AB: ("a", "b")}


class World:
    """A process with two sessions, and what was handed back."""

    def __init__(self) -> None:
        self.back: list[tuple[str, list[str]]] = []
        self.away = False
        self.clock = FakeClock()
        store: Any = self
        self.offers = Offers(store, self.hand_back, self.clock, doubt_seconds=10)

    async def read_session_kinds(self, session_id: str) -> Sequence[str]:
        return KINDS[session_id]

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
    async with world.offers.open(AB) as both, world.offers.open(A) as one:
        both.hear(2, 0)
        one.hear(9, 0)
        tasks = [task("low", "b", Priority.LOW), task("high", "b", Priority.HIGH), task("other", "c")]
        assert world.offers.reserve(tasks[2:]) == {}
        taken = world.offers.reserve([task(str(number)) for number in range(4)])
        assert sorted(offer.session_id for offer in taken.values()) == [A, A, AB, AB]
        world.offers.release(taken, in_doubt=False)
        world.offers.reserve([task("x", "b")])
        assert world.offers.reserve(tasks) == {"high": both}
    assert world.back == []


async def test_a_slot_that_is_free_again_is_found() -> None:
    """Also where nobody had room when it was last looked for; one of a stream that has ended is not."""
    world = World()
    async with world.offers.open(A) as offer:
        assert (world.offers.is_offered("a"), world.offers.is_offered("b")) == (True, False)
        offer.hear(1, 0)
        assert [world.offers.promise("a"), world.offers.promise("a"), world.offers.promise("b")] == [offer, None, None]
        world.offers.forgo(offer)
        assert world.offers.reserve([task("x"), task("y")]) == {"x": offer}
        world.offers.release({"x": offer}, in_doubt=False)
        assert world.offers.promise("a") is offer
        # Who comes first is not kept from what was promised to others.
        assert world.offers.reserve([task("z")]) == {"z": offer}
        assert world.offers.reserve([task("w")], {"w": offer}) == {}
        offer.hear(2, 0)
        assert world.offers.promise("a") is offer
        assert world.offers.reserve([task("v"), task("w")], {"w": offer}) == {"w": offer}
    world.offers.release({"z": offer}, in_doubt=False)
    assert not world.offers.is_offered("a")
    assert not any(world.offers._free.values())


async def test_after_the_commit_each_slot_is_filled_or_free() -> None:
    """A task that was refused, or is another's, frees its slot; one whose session was over ends the stream."""
    world = World()
    async with world.offers.open(A) as offer:
        offer.hear(4, 0)
        tasks = [task(name) for name in ("begun", "refused", "twin", "bounded")]
        taken = world.offers.reserve(tasks)
        world.offers.settle(taken, tasks, [accepted(A), Conflict("no"), accepted(), accepted()])
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
    async with world.offers.open(A) as offer:
        offer.hear(3, 0)
        taken = world.offers.reserve(tasks)
        first, others = tasks[:1], tasks[1:2]
        world.offers.settle(taken, first, [accepted(A)])
        await said(offer)
        world.offers.settle(taken, others, [accepted(A)])
    world.offers.settle(taken, tasks[2:], [accepted(A)])
    world.away = True
    with pytest.raises(Unavailable):
        await world.offers.give_back()
    world.away = False
    await world.offers.give_back()
    assert world.back == [(A, ["waits", "written later"])]


async def test_what_is_in_doubt_is_handed_back_until_it_is_certain() -> None:
    """Its commit may come about after all; nothing more is begun until another is answered."""
    world = World()
    async with world.offers.open(A) as offer:
        offer.hear(3, 0)
        world.offers.release(world.offers.reserve([task("x"), task("y")]), in_doubt=True)
        assert offer.room == 3
        assert world.offers.reserve([task("z")]) == {}
        assert world.offers.promise("a") is None
        for _ in range(3):
            await world.offers.give_back()
            world.clock.advance(6)
        await world.offers.give_back()
        world.offers.release({}, in_doubt=True)
        assert world.offers.reserve([task("z")]) == {}
        world.offers.settle({}, [], [])
        assert world.offers.promise("a") is offer
        assert world.offers.reserve([task("z")]) == {"z": offer}
    assert world.back == [(A, ["x", "y"])] * 3


async def test_what_is_to_be_given_back_cannot_grow() -> None:
    """Above a bound nothing is begun, whoever it is that does not get it back."""
    world = World()
    async with world.offers.open(A) as offer, world.offers.open(AB) as another:
        another.hear(500, 0)
        world.offers.release(world.offers.reserve([task(f"x{number}") for number in range(500)]), in_doubt=True)
        world.offers.settle({}, [], [])
        offer.hear(501, 0)
        another.hear(0, 0)
        world.offers.release(world.offers.reserve([task(f"y{number}") for number in range(499)]), in_doubt=True)
        world.offers.settle({}, [], [])
        last = world.offers.reserve([task("last")])
        assert last == {"last": offer}
        world.offers.release(last, in_doubt=True)
        world.offers.settle({}, [], [])
        assert world.offers.reserve([task("z")]) == {}
        world.clock.advance(11)
        await world.offers.give_back()
        assert world.offers.reserve([task("z")]) == {"z": offer}


async def test_many_are_handed_back_in_parts() -> None:
    world = World()
    async with world.offers.open(A) as offer:
        offer.hear(900, 0)
        world.offers.release(world.offers.reserve([task(str(number)) for number in range(900)]), in_doubt=True)
        await world.offers.give_back()
    assert [len(ids) for _, ids in world.back] == [500, 400]


async def test_large_ones_go_in_several_messages() -> None:
    """A client takes no message of any size; one that is large alone goes alone."""
    offer = await opened(9)
    for size in (600_000, 600_000, 3_000_000, 10):
        offer.take()
        offer.send(claimed("x")._replace(payload=b"x" * size))
    offer.end()
    assert [len(tasks) async for tasks, _, _ in offer.read()] == [1, 1, 1, 1]


async def test_a_newer_stream_of_a_session_ends_the_older() -> None:
    """What was taken of that is still sent on it."""
    world = World()
    async with world.offers.open(A) as older:
        older.hear(3, 0)
        async with world.offers.open(A) as newer:
            newer.hear(2, 0)
            assert [most async for _, most, _ in older.read()] == [3]
            assert world.offers.reserve([task("x")]) == {"x": newer}
    assert world.offers.reserve([task("x")]) == {}


async def test_a_process_that_goes_away_begins_nothing_more() -> None:
    """It waits for its streams; one that nobody reads is ended."""
    world = World()
    heard: list[int] = []

    async def read() -> None:
        async with world.offers.open(A) as offer:
            offer.hear(3, 0)
            heard.extend([most async for _, most, _ in offer.read()])

    async def read_nothing() -> None:
        async with world.offers.open(AB):
            await asyncio.Event().wait()

    readers = [asyncio.ensure_future(one()) for one in (read, read_nothing)]
    async with asyncio.timeout(20):
        while not (taken := world.offers.reserve([task("x")])):
            await asyncio.sleep(0)
        world.offers.release(taken, in_doubt=False)
        await world.offers.close()
        await asyncio.wait(readers)
    assert heard == [3]
    assert [reader.cancelled() for reader in readers] == [False, True]
    assert world.offers.reserve([task("x")]) == {}
    with pytest.raises(Unavailable):
        async with world.offers.open(A):
            pytest.fail("it is open")


async def test_what_can_be_no_session_is_none() -> None:
    """Nobody is asked."""
    with pytest.raises(NotFound):
        async with World().offers.open("ses_\x00"):
            pytest.fail("it is open")
