"""Pointers on their way to the broker: owners in turn, few ahead, and no more of a kind than may run."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from chassis.clock import SystemClock
from chassis.errors import Unavailable
from services.tasks.model.states import Priority
from services.tasks.model.task import Kind
from services.tasks.model.work import Opening, Pointer, WaitingPointer
from services.tasks.operations.feeder import Feeder
from tests.integration.tasks.core import KIND, Core, failure, open_core, success

pytestmark = pytest.mark.postgres


class Broker:
    """Takes everything but a class of tasks that is refused, unless it is away."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.taken: list[WaitingPointer] = []
        self.away = False
        self.refused: Priority | None = None
        self.feeder = Feeder(core.store, core.queues, core.figures, self.publish, clock=SystemClock())

    async def publish(self, bundles: Sequence[Sequence[WaitingPointer]]) -> list[bool]:
        if self.away:
            raise Unavailable(code="BROKER_ERROR")
        ready = self.core.queues.ready
        outcomes = [bundle[0].priority is not self.refused for bundle in bundles]
        for bundle, taken in zip(bundles, outcomes, strict=True):
            if taken:
                self.taken += bundle
                queue = bundle[0].group, bundle[0].priority
                ready[queue] = ready.get(queue, 0) + 1
        return outcomes

    async def feed(self, rounds: int = 1) -> list[str]:
        """The tasks of what was published, in order."""
        before = len(self.taken)
        for _ in range(rounds):
            # As after every commit.
            self.feeder.wake()
            await self.feeder.feed()
        return [one.task_id for one in self.taken[before:]]


async def announce(core: Core, *, max_running: int, **changes: Any) -> str:
    """A worker that does the kind with this bound."""
    kinds = (
        replace(KIND, max_running=max_running, **changes),
        Kind(kind="other", group="builtin", max_attempts=1, timeout_seconds=9),
    )
    opening = Opening(session_id="", worker_name="worker", host="here", kinds=kinds, slots=10)
    session = await core.keep(await core.desk.open_session(opening))
    # As every second.
    await core.figures.read_kinds()
    return session


async def submit(core: Core, count: int, **changes: object) -> list[str]:
    receipts = await asyncio.gather(*(core.submit(**changes) for _ in range(count)))
    return [receipt.accepted.task.task_id for receipt in receipts]


async def test_one_owners_backlog_does_not_hold_up_another(core: Core) -> None:
    """Ann has a thousand tasks in the queue before Bob's first: his is among the next few dozen that start."""
    await announce(core, max_running=0)
    broker = Broker(core)
    await submit(core, 1000, owner_id="ann")
    await broker.feed(rounds=5)
    ahead = len(broker.taken)
    assert ahead <= 64
    (bobs,) = await submit(core, 1, owner_id="bob")
    core.queues.ready.clear()
    await asyncio.sleep(0.05)
    assert bobs in (await broker.feed())[:2]


async def test_owners_take_turns(core: Core) -> None:
    """With three owners every third start is each one's, until one has no more."""
    await announce(core, max_running=0)
    broker = Broker(core)
    for owner, count in (("ann", 40), ("bob", 5), ("cid", 40)):
        await submit(core, count, owner_id=owner)
    await broker.feed(rounds=2)
    owners = [one.owner_id for one in broker.taken]
    assert owners[:15] == ["ann", "bob", "cid"] * 5
    assert abs(owners.count("ann") - owners.count("cid")) <= 1


async def test_of_many_owners_none_is_left_out(core: Core) -> None:
    """More owners than a round looks at, and fewer places than owners: each has its turn before any has two."""
    await announce(core, max_running=0)
    broker = Broker(core)
    owners = [f"owner-{number:03}" for number in range(250)]
    for _ in range(2):
        await asyncio.gather(*(core.submit(owner_id=owner) for owner in owners))
    while len(broker.taken) < 250:
        core.queues.ready.clear()
        await asyncio.sleep(0.02)
        await broker.feed()
    assert len({one.owner_id for one in broker.taken[:250]}) >= 240


async def test_urgent_pointers_do_not_wait_for_others(core: Core) -> None:
    """Each class has its own window."""
    await announce(core, max_running=0)
    broker = Broker(core)
    await submit(core, 500, priority=int(Priority.LOW))
    await broker.feed(rounds=3)
    (urgent,) = await submit(core, 1, priority=int(Priority.CRITICAL))
    assert await broker.feed() == [urgent]


async def test_what_the_broker_did_not_take_is_kept(core: Core) -> None:
    """Nothing is forgotten while it is away."""
    await announce(core, max_running=0)
    broker = Broker(core)
    tasks = await submit(core, 3)
    broker.away = True
    with pytest.raises(Unavailable):
        await broker.feed()
    broker.away = False
    assert sorted(await broker.feed()) == sorted(tasks)
    assert await core.pointers() == []


async def test_no_more_of_a_kind_run_than_may(core: Core) -> None:
    """Five tasks, two places: a place is free again only when its attempt is over, however that ends."""
    session = await announce(core, max_running=2)
    broker = Broker(core)
    await submit(core, 5)
    (other,) = await submit(core, 1, kind="other")
    first, *rest = await broker.feed(rounds=3)
    pair = [task_id for task_id in (first, *rest) if task_id != other]
    assert len(pair) == 2
    assert len(await core.claim(session, *pair)) == 2
    assert await broker.feed(rounds=3) == []
    await core.finish(session, success(pair[0]))
    (third,) = await broker.feed(rounds=3)
    # A retry gives its place up while it waits.
    await core.finish(session, failure(pair[1]))
    (fourth,) = await broker.feed(rounds=3)
    # One that is cancelled before anybody claimed it does too.
    await core.queries.cancel(third, "")
    (fifth,) = await broker.feed(rounds=3)
    assert len({*pair, third, fourth, fifth}) == 5


async def test_a_bound_holds_for_two_feeding_processes(core: Core, tasks_url: str) -> None:
    """Both at once, twenty rounds: never more than two are out."""
    await announce(core, max_running=2)
    await submit(core, 20)
    async with open_core(tasks_url) as other:
        await other.figures.read_kinds()
        brokers = [Broker(core), Broker(other)]
        await asyncio.gather(*(broker.feed(rounds=20) for broker in brokers))
    assert len({one.task_id for broker in brokers for one in broker.taken}) == 2


async def test_a_lost_pointer_keeps_its_place(core: Core) -> None:
    """The new one goes out although the kind is full: it is for the same attempt."""
    await announce(core, max_running=1)
    broker = Broker(core)
    await submit(core, 2)
    (first,) = await broker.feed(rounds=3)
    await core.sql("UPDATE tasks.task_live SET enqueued_at = now() - interval '1 minute'")
    await core.upkeep.refresh()
    core.queues.empty = [("builtin", Priority.NORMAL)]
    core.queues.ready.clear()
    for _ in range(10):
        await core.upkeep.reconcile()
    assert await broker.feed(rounds=3) == [first]


async def test_a_bound_that_changes_takes_effect(core: Core) -> None:
    """Lowered, it counts what is under way; lifted, everything goes."""
    await announce(core, max_running=0)
    broker = Broker(core)
    running = await submit(core, 3)
    session = await core.open_session()
    assert sorted(await broker.feed(rounds=2)) == sorted(running)
    assert len(await core.claim(session, *running)) == 3
    await announce(core, max_running=2)
    await submit(core, 3)
    assert await broker.feed(rounds=3) == []
    await core.finish(session, *(success(task_id) for task_id in running[:2]))
    assert len(await broker.feed(rounds=3)) == 1
    await announce(core, max_running=0)
    assert len(await broker.feed(rounds=3)) == 2


async def _feed_empty(core: Core, broker: Broker) -> list[str]:
    """What is published once the workers have taken all that was."""
    core.queues.ready.clear()
    await asyncio.sleep(0.02)
    return await broker.feed(rounds=3)


async def _run_all(core: Core, broker: Broker, session: str) -> list[int]:
    """Claims and ends whatever is published, until nothing is any more; how many ran at once in each round."""
    rounds = []
    while published := await _feed_empty(core, broker):
        claimed = await core.claim(session, *published)
        rounds.append(len(claimed))
        await core.finish(session, *(success(one.task_id) for one in claimed))
    return rounds


async def _bound_late(core: Core, broker: Broker, count: int, *, max_running: int) -> tuple[str, list[str]]:
    """A session, and tasks whose pointers were out before their kind had this bound."""
    await announce(core, max_running=0)
    await submit(core, count)
    out = await broker.feed(rounds=2)
    assert len(out) == count
    return await announce(core, max_running=max_running), out


async def test_a_bound_that_comes_late_holds_for_what_is_out(core: Core) -> None:
    """Pointers that went out before it find no place at their claim, and wait for one then."""
    broker = Broker(core)
    session, out = await _bound_late(core, broker, 6, max_running=2)
    assert list(await core.claim(session, *out)) == []
    assert await _run_all(core, broker, session) == [2, 2, 2]


async def test_a_pointer_that_waits_twice_takes_one_place(core: Core) -> None:
    """The broker may deliver what it has delivered once more, and each of both finds no place."""
    broker = Broker(core)
    session, out = await _bound_late(core, broker, 3, max_running=6)
    for _ in range(2):
        assert list(await core.claim(session, *out)) == []
    assert await _run_all(core, broker, session) == [3]


async def test_a_lower_bound_takes_places_back(core: Core) -> None:
    """From those that have not started; who runs already goes on, and counts."""
    session = await announce(core, max_running=5)
    broker = Broker(core)
    await submit(core, 8)
    first, *out = await broker.feed(rounds=3)
    assert len(out) == 4
    assert len(await core.claim(session, first)) == 1
    await announce(core, max_running=2)
    (second,) = await core.claim(session, *out)
    assert await _feed_empty(core, broker) == []
    await core.finish(session, success(first), success(second.task_id))
    assert await _run_all(core, broker, session) == [2, 2, 2]


async def test_a_bound_that_comes_during_claims_counts_them_all(core: Core) -> None:
    """Each claim is before it, and counts as running, or after it, and is refused."""
    broker = Broker(core)
    for _ in range(10):
        session = await announce(core, max_running=0)
        await submit(core, 40)
        out = await broker.feed(rounds=3)
        calls = [core.claim(session, *out[number::8]) for number in range(8)]
        announcing = asyncio.create_task(announce(core, max_running=2))
        running = [one.task_id for claimed in await asyncio.gather(*calls) for one in claimed]
        await announcing
        if len(running) >= 2:
            assert await broker.feed(rounds=3) == []
        await core.finish(session, *(success(task_id) for task_id in running))
        assert sum(await _run_all(core, broker, session)) + len(running) == 40


async def test_a_place_that_is_not_used_yet_is_kept(core: Core) -> None:
    """The broker is away when something else of the kind changes, or its bound: nobody else could use the place."""
    for bound in (3, 2):
        await announce(core, max_running=3)
        broker = Broker(core)
        await submit(core, 5)
        await core.store.grant_places()
        session = await announce(core, max_running=bound, timeout_seconds=61)
        rounds = await _run_all(core, broker, session)
        assert (sum(rounds), max(rounds)) == (5, bound)


async def test_a_kind_with_a_bound_moves(core: Core) -> None:
    """What waits, what is out without a place and what is handed back go where the kind is done now."""
    await announce(core, max_running=0)
    broker = Broker(core)
    out = await submit(core, 3)
    assert len(await broker.feed(rounds=2)) == 3
    session = await announce(core, max_running=2, group="second")
    await core.upkeep.refresh()
    assert list(await core.claim(session, *out)) == []
    first, second = await _feed_empty(core, broker)
    assert len(await core.claim(session, first, second)) == 2
    await announce(core, max_running=2, group="third")
    await core.upkeep.refresh()
    await core.desk.hand_back(session, [Pointer(task_id=first, attempt=1)])
    await core.finish(session, success(second))
    assert sorted(await _feed_empty(core, broker)) == sorted({*out} - {second})
    assert [one.group for one in broker.taken[3:]] == ["second", "second", "third", "third"]


async def test_the_lane_of_a_bound_that_went_is_emptied(core: Core) -> None:
    """Whoever wrote to it had read the bound before it went, and committed after."""
    await announce(core, max_running=2)
    broker = Broker(core)
    tasks = await submit(core, 3)
    await core.sql("UPDATE tasks.kind SET max_running = 0")
    await core.figures.read_kinds()
    # As the feeder does once a second.
    assert await core.store.recall_direct(2.0) == 3
    assert sorted(await _feed_empty(core, broker)) == sorted(tasks)


async def test_a_place_is_for_one_attempt(core: Core) -> None:
    """The next attempt waits for its own, and a pointer of an earlier one that comes late changes nothing."""
    session = await announce(core, max_running=2)
    broker = Broker(core)
    (task_id,) = await submit(core, 1)
    assert await broker.feed() == [task_id]
    assert await core.claim(session, task_id)
    await core.desk.hand_back(session, [Pointer(task_id=task_id, attempt=1)])
    assert list(await core.claim(session, task_id, attempt=1)) == []
    while await _feed_empty(core, broker):
        pass
    assert await core.claim(session, task_id, attempt=1)
    await core.sql(
        """
        INSERT INTO tasks.pointer (lane, work_group, priority, owner_id, task_id, attempt, traceparent, at)
        SELECT kind, work_group, priority, owner_id, task_id, 0, '', now() FROM tasks.task
        """
    )
    more = await submit(core, 3)
    published = [one for _ in range(4) for one in await _feed_empty(core, broker)]
    assert len({*published} & {*more}) == 1


async def test_no_place_is_given_while_older_claims_are_under_way(core: Core, tasks_url: str) -> None:
    """They have not seen the bound; what they start counts once they are over."""
    session = await announce(core, max_running=0)
    broker = Broker(core)
    await submit(core, 3)
    out = await broker.feed(rounds=2)
    async with open_core(tasks_url) as other:
        async with other.database.driver() as pg:
            await pg.fetch("SELECT FROM tasks.task_live WHERE task_id = $1 FOR UPDATE", out[0])
            claiming = asyncio.create_task(core.claim(session, *out))
            while not await core.sql("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                await asyncio.sleep(0.01)
            await announce(core, max_running=2)
            (late,) = await submit(core, 1)
            assert await _feed_empty(core, broker) == []
        assert len(await claiming) == 3
    assert await _feed_empty(core, broker) == []
    await core.finish(session, success(out[0]), success(out[1]))
    assert await _feed_empty(core, broker) == [late]
