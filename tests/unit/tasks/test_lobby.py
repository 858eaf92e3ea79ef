"""What may begin in an offered slot and finds none free: it waits for one that comes soon, and not for long."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from chassis.errors import Unavailable
from services.tasks.model.states import Priority
from services.tasks.model.work import Pointer
from services.tasks.operations import lobby as module
from services.tasks.operations.lobby import MOST
from services.tasks.operations.offers import Offer
from tests.unit.tasks.lobby import Site, all_of, opened
from tests.unit.tasks.test_offers import AB


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return partial(monkeypatch.setattr, module, "PATIENCE_SECONDS")


@pytest.fixture
async def site(patience: Callable[[float], None]) -> AsyncIterator[Site]:
    """Nobody's patience ends while a test runs."""
    patience(60)
    async with opened() as made:
        yield made


async def test_what_finds_no_slot_waits_for_the_next(site: Site) -> None:
    """It is not written before; then with its slot."""
    await site.trusted(2)
    first, second = site.put("first"), site.put("second")
    await asyncio.sleep(0.02)
    assert site.written == []
    site.free(1)
    assert await all_of(first) == ["first"]
    assert not second.done()
    site.free(1)
    await all_of(second)
    assert site.slots == {"first": site.offer, "second": site.offer}


async def test_the_urgent_go_first(site: Site) -> None:
    """Of one class who came first; who comes while others wait overtakes none of his class, though there is room."""
    await site.trusted(9)
    site.direct.clear = False
    waiting = [site.put("low", priority=Priority.LOW), site.put("a"), site.put("b")]
    waiting += [site.put("urgent", priority=Priority.CRITICAL)]
    site.free(2)
    site.direct.clear = True
    waiting += [site.put("c")]
    site.free(0)
    await all_of(waiting[1], waiting[3])
    site.free(3)
    await all_of(*waiting)
    assert site.written == ["urgent", "a", "b", "c", "low"]


async def test_the_urgent_wait_though_others_fill_the_lobby(site: Site) -> None:
    await site.trusted(3)
    waiting = [site.put(name, priority=Priority.LOW) for name in "abcd"]
    assert site.waiting == [*"abc"]
    waiting += [site.put("urgent", priority=Priority.CRITICAL)]
    site.free(2)
    await all_of(waiting[0], waiting[3], waiting[4])
    assert set(site.slots) == {"urgent", "a"}


async def test_a_kind_without_slots_holds_up_no_other(site: Site) -> None:
    """Neither when nobody offers it any, nor when its workers have no room."""
    await site.trusted(2)
    await all_of(site.put("unknown", kind="b"))
    async with site.offers.open(AB) as another:
        another.hear(1, 0)
        site.lobby._kinds["b"].most = 2
        await all_of(site.put("first", kind="b"))
        waits, other = site.put("waits", kind="b"), site.put("other")
        site.free(1)
        await all_of(other)
        assert not waits.done()
    await all_of(site.put("nobody is left", kind="b"))
    assert site.slots == {"first": another, "other": site.offer}


async def test_no_more_wait_than_slots_come_in_time(site: Site) -> None:
    """As far as it was measured for how long its workers' slots are taken."""
    await site.trusted(9)
    site.figures.soon = 1.5
    waiting = [site.put(name) for name in "abc"]
    await all_of(*waiting[1:])
    assert site.waiting == ["a"]
    site.lobby._kinds["b"] = type(site.lobby._kinds["a"])(most=9)
    async with site.offers.open(AB):
        await all_of(site.put("another kind", kind="b"))
        site.figures.soon = 0.9
        await all_of(site.put("d", priority=Priority.CRITICAL))


async def test_kinds_that_share_workers_take_their_turns(site: Site) -> None:
    """The urgent first, whatever the kind; of a class who came first."""
    async with site.offers.open(AB) as both:
        both.hear(4, 0)
        for kind in "abab":
            await site.put("", kind=kind)
        one, two, three = (site.put(name, kind=kind) for name, kind in (("1", "b"), ("2", "a"), ("3", "b")))
        both.hear(6, 0)
        assert site.waiting == ["3"]
        site.direct.clear = False
        both.hear(8, 0)
        site.direct.clear = True
        # Nobody was told of these two slots.
        urgent = site.put("urgent", priority=Priority.CRITICAL)
        late = site.put("late", priority=Priority.LOW)
        await all_of(one, two, three, urgent)
        assert not late.done()


async def test_what_nobody_tells_of_is_seen_soon(site: Site) -> None:
    """What stood in the way of free slots is gone: others that waited for their queue, a commit in doubt."""
    await site.trusted(4)
    site.direct.clear = False
    site.free(1)
    first = site.put("first")
    site.direct.clear = True
    await all_of(first)
    site.offers._give_up(site.offer, [Pointer(str(number), 1) for number in range(1000)])
    site.free(1)
    second = site.put("second")
    await asyncio.sleep(0.03)
    assert not second.done()
    await site.offers.give_back()
    await all_of(second)
    assert set(site.slots) == {"first", "second"}


@pytest.mark.parametrize("why", ["taken back", "over", "doubt", "ended"])
async def test_a_promise_binds_nobody(site: Site, why: str) -> None:
    """What holds when the batch is written counts: the worker hears at once that a slot is its own again."""
    site.gate.clear()
    site.free(1)
    under_way = site.put("under way")
    await asyncio.sleep(0.02)
    site.free(1)
    promised = site.put("promised")
    assert (site.offer.free, site.waiting) == (0, [])
    match why:
        case "taken back":
            site.offer.hear(0, 0)
            assert [most async for _, most, _ in first_of(site.offer)] == [1]
        case "over":
            site.offer.leave()
        case "doubt":
            site.offers.release({}, in_doubt=True)
        case "ended":
            site.offer.end()
    site.gate.set()
    await all_of(under_way, promised)
    assert set(site.slots) == {"under way"}


async def first_of(offer: Offer) -> AsyncIterator[Any]:
    yield await anext(offer.read())


async def test_nobody_waits_where_no_slot_was_found(site: Site) -> None:
    """Nor more than found one; they are written without."""
    await all_of(site.put("early"))
    await site.trusted(1)
    waits, more = site.put("waits"), site.put("more")
    assert await all_of(more) == ["more"]
    assert not waits.done()
    assert site.slots == {}


async def test_no_more_wait_than_may(site: Site) -> None:
    await site.trusted(MOST + 1)
    futures = [site.put(str(number)) for number in range(MOST + 1)]
    assert await all_of(futures[-1]) == [str(MOST)]
    assert not any(one.done() for one in futures[:-1])


async def test_patience_ends(site: Site, patience: Callable[[float], None]) -> None:
    """They are written without a slot, and half as many may wait from then on."""
    await site.trusted(4)
    patience(0.01)
    assert await all_of(*map(site.put, "abcd")) == [*"abcd"]
    assert site.slots == {}
    patience(60)
    waiting = [site.put(name) for name in "efg"]
    await all_of(waiting[2])
    assert [one.done() for one in waiting] == [False, False, True]


async def test_who_left_is_not_written(site: Site, patience: Callable[[float], None]) -> None:
    """When there was no slot for as long as it would have waited."""
    await site.trusted(1)
    patience(0.01)
    site.put("gone").cancel()
    async with asyncio.timeout(20):
        while not site.dropped:
            await asyncio.sleep(0.005)
    assert (site.dropped, site.written, site.batcher._waiting_rows) == (["gone"], [], 0)


async def test_what_may_not_take_a_slot_does_not_wait_for_one(site: Site) -> None:
    """What has a deadline is looked at when it begins, and others wait in the table before it."""
    await site.trusted(5)
    await all_of(site.put("deadline", deadline_at=1))
    site.direct.passes = False
    await all_of(site.put("behind others"))
    site.direct.passes = True
    site.direct.clear = False
    site.free(3)
    waits = site.put("behind what is published")
    await asyncio.sleep(0.02)
    assert not waits.done()
    assert site.slots == {}


@pytest.mark.parametrize(
    ("waiting", "on_the_way", "free", "let_in"),
    [
        (40, 0, 1, 1),
        (40, 12, 2, 0),
        (40, 12, 4, 4),
        (40, 100, 15, 0),
        (40, 100, 16, 16),
        (3, 100, 2, 0),
        (3, 100, 3, 3),
    ],
)
async def test_few_slots_are_not_worth_a_commit(
    site: Site, waiting: int, on_the_way: int, free: int, let_in: int
) -> None:
    """While more wait, and more slots are on their way: a quarter of all are, or sixteen."""
    await site.trusted(on_the_way + 40)
    site.offer._sent = 40
    for _ in range(waiting):
        site.put("")
    site.offer.hear(site._most, 40)
    assert site.offer.open == on_the_way
    site.offer.hear(site._most + free, 40)
    assert len(site.waiting) == waiting - let_in


async def test_who_leaves_takes_no_slot(site: Site) -> None:
    """Whether it waited for one or had one already; its place is free."""
    await site.trusted(2)
    site.gate.clear()
    site.free(1)
    under_way = site.put("under way")
    await asyncio.sleep(0.02)
    gone, stays = site.put("gone"), site.put("stays")
    gone.cancel()
    site.free(1)
    stays.cancel()
    site.gate.set()
    await all_of(under_way)
    assert await all_of(site.put("next")) == ["next"]
    assert site.dropped == ["gone", "stays"]
    assert set(site.slots) == {"under way", "next"}


async def test_what_the_batcher_does_not_take_fails(site: Site) -> None:
    """All of it, in one go; the slots stay free."""
    await site.trusted(400)
    waiting = [site.put(str(number)) for number in range(400)]
    waiting.pop().cancel()
    site.batcher._most_waiting = 0
    site.free(400)
    for one in waiting:
        with pytest.raises(Unavailable):
            await one
    assert len(site.dropped) == 400
    with pytest.raises(Unavailable):
        site.put("late")
    assert site.offer.room == 400


async def test_a_process_that_ends_leaves_nobody_waiting() -> None:
    async with opened() as site:
        await site.trusted(2)
        waits, gone = site.put("waits"), site.put("gone")
        gone.cancel()
    with pytest.raises(Unavailable):
        await waits


async def test_a_commit_in_doubt_lets_nobody_in(site: Site) -> None:
    """Until another one is answered."""
    await site.trusted(2)
    waits = site.put("waits")
    site.free(1)
    await all_of(waits)
    other = site.put("other")
    site.offers.release(site.slots, in_doubt=True)
    await asyncio.sleep(0.02)
    assert not other.done()
    site.offers.settle({}, [], [])
    await all_of(other)
    assert set(site.slots) == {"waits", "other"}


async def test_while_work_lags_behind_whoever_submits_is_held(site: Site, patience: Callable[[float], None]) -> None:
    """Also where pointers wait in the table, and though none has found a slot lately: for as long as it is said."""
    patience(0.01)
    site.figures.held = {Priority.NORMAL: 60}
    site.direct.passes = False
    held = site.put("held")
    high = site.put("high", priority=Priority.HIGH)
    later = site.put("later", run_at="noon")
    in_time = site.put("in time", deadline_at="noon")
    await all_of(high, later, in_time)
    assert site.waiting == ["held"]
    # What waits in the table has its turn first, however many slots are free.
    site.free(1)
    await asyncio.sleep(0.03)
    assert not held.done()
    site.direct.passes = True
    await all_of(held)
    assert set(site.slots) == {"held"}


async def test_who_is_held_passes_nobody_in_the_table(site: Site) -> None:
    """Though slots are free when it comes."""
    site.figures.held = {Priority.NORMAL: 60}
    site.direct.passes = False
    site.free(1)
    site.put("held")
    assert site.waiting == ["held"]


async def test_who_is_held_goes_on_in_the_end(site: Site, patience: Callable[[float], None]) -> None:
    """By a pointer, as others do."""
    patience(0.01)
    site.figures.held = {Priority.NORMAL: 0.02}
    held = [site.put(str(number)) for number in range(50)]
    assert len(site.waiting) == 50
    await all_of(*held)
    assert site.slots == {}


async def test_they_are_held_only_as_long_as_that_lasts(site: Site, patience: Callable[[float], None]) -> None:
    """Then they go on as all others do."""
    patience(0.02)
    site.direct.passes = False
    site.figures.held = {Priority.NORMAL: 60}
    first = site.put("first")
    await asyncio.sleep(0.04)
    assert not first.done()
    site.figures.held = {}
    await all_of(first, site.put("second"))
    assert sorted(site.written) == ["first", "second"]


async def test_no_more_are_held_than_the_work_catches_up_with(site: Site, patience: Callable[[float], None]) -> None:
    """As many as are worked off in that time, and more of them the longer it is."""
    patience(20)
    site.figures.held = {Priority.NORMAL: 40}
    site.figures.soon = 15
    for number in range(40):
        site.put(str(number))
    assert len(site.waiting) == 30
    site.figures.soon = 10**6
    for number in range(3 * MOST):
        site.put(f"more {number}")
    assert len(site.waiting) == 2 * MOST
    site.figures.held = {}
    assert site.put("one more") is not None
    assert len(site.waiting) == 2 * MOST


async def test_nobody_is_held_for_a_kind_that_nobody_offers(site: Site) -> None:
    site.figures.held = {Priority.NORMAL: 60}
    await all_of(site.put("unknown", kind="b"))


async def test_slots_of_all_workers_are_found(site: Site) -> None:
    await site.trusted(2)
    async with site.offers.open(AB) as another:
        one, two = site.put("one"), site.put("two")
        another.hear(1, 0)
        await all_of(one)
        site.free(1)
        await all_of(two)
        assert site.slots == {"one": another, "two": site.offer}
