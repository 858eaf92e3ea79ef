"""Pointers on the short way: published from their commit, and never lost on it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from chassis.clock import Clock, SystemClock
from services.tasks.model.ids import Ids
from services.tasks.model.states import Priority
from services.tasks.operations.direct import Direct
from services.tasks.operations.intake import Intake
from services.tasks.operations.offers import Offers
from tests.integration.tasks.core import Core, draft
from tests.integration.tasks.test_feeding import Broker, announce, submit
from tests.support.clock import FakeClock

pytestmark = pytest.mark.postgres


async def until(what: str, condition: Callable[[], bool]) -> None:
    """Waits for a condition that comes by itself."""
    try:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"within 20 s not: {what}")


@asynccontextmanager
async def opened(
    core: Core, broker: Broker, clock: Clock | None = None, *, tidies: bool = True, offers: Offers | None = None
) -> AsyncIterator[tuple[Intake, Direct]]:
    """An intake whose pointers may take it, beside a feeder that has found nothing waiting."""
    # Far from the bound, as almost always: in one statement.
    await core.upkeep.refresh()
    await broker.feed()
    direct = Direct(core.store, broker.feeder, broker.publish, clock=clock or FakeClock())
    new_id = partial(Ids().new, "task")
    intake = Intake(core.store, core.figures, SystemClock(), new_id, direct=direct, offers=offers)
    loops = [intake.batcher.run(), direct.run(), *([direct.tidy()] if tidies else [])]
    if intake.lobby is not None:
        loops.append(intake.lobby.run())
    running = [asyncio.ensure_future(loop) for loop in loops]
    try:
        yield intake, direct
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


@asynccontextmanager
async def short_way(core: Core, broker: Broker, *, tidies: bool = True) -> AsyncIterator[Intake]:
    """The intake alone."""
    async with opened(core, broker, tidies=tidies) as (intake, _):
        yield intake


async def accept(intake: Intake, **changes: object) -> str:
    return (await intake.submit(draft(**changes))).accepted.task.task_id


async def rows(core: Core) -> list[tuple[str, str]]:
    """Those on the short way last, in a lane of that name."""
    pointers = "SELECT task_id, lane FROM tasks.pointer UNION ALL SELECT unnest(task_ids), '>' FROM tasks.direct"
    return [(row["task_id"], row["lane"]) for row in await core.sql(pointers)]


async def until_rows(core: Core, expected: list[tuple[str, str]]) -> None:
    """Waits until the table of pointers holds these tasks, each with its lane."""
    for _ in range(2000):
        found = await rows(core)
        if found == expected:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"the pointers are still {found}")


async def test_a_pointer_is_published_from_its_commit(core: Core) -> None:
    """Nobody feeds; the row is deleted after the confirmation."""
    await announce(core, max_running=0)
    broker = Broker(core)
    async with short_way(core, broker) as intake:
        task_id = await accept(intake)
        await until("published", lambda: [one.task_id for one in broker.taken] == [task_id])
        async with asyncio.timeout(20):
            while await rows(core):
                await asyncio.sleep(0.01)
    assert await broker.feed() == []


async def test_what_the_broker_refuses_is_left_to_the_feeder(core: Core) -> None:
    """As soon as it is back."""
    await announce(core, max_running=0)
    broker = Broker(core)
    async with short_way(core, broker) as intake:
        broker.away = True
        task_id = await accept(intake)
        await until_rows(core, [(task_id, "")])
    broker.away = False
    assert await broker.feed() == [task_id]


async def test_of_a_commit_only_what_the_broker_refuses_is_left_to_the_feeder(core: Core) -> None:
    """Its pointers share a row, and go to queues of which one may be full or gone."""
    await announce(core, max_running=0)
    broker = Broker(core)
    async with short_way(core, broker) as intake:
        broker.refused = Priority.HIGH
        receipts = await intake.submit_many([draft(priority=one) for one in (Priority.NORMAL, Priority.HIGH)])
        await until("published", lambda: len(broker.taken) == 1)
        await until_rows(core, [(receipts[1].accepted.task.task_id, "")])


async def test_a_process_that_dies_leaves_its_pointers_to_the_others(core: Core) -> None:
    """Published or not: its row is still there, and two seconds later somebody feeds it."""
    await announce(core, max_running=0)
    broker = Broker(core)
    async with short_way(core, broker, tidies=False) as intake:
        task_id = await accept(intake)
        await until("published", lambda: len(broker.taken) == 1)
    assert await rows(core) == [(task_id, ">")]
    await core.sql("UPDATE tasks.direct SET at = at - interval '3 seconds'")
    another = Broker(core)
    assert await another.feed() == [task_id]
    assert await rows(core) == []


async def test_what_is_not_settled_is_fed_again_as_far_as_it_still_waits(core: Core) -> None:
    """The row of a commit stays while one of its pointers is not settled; one that led to a start is not repeated."""
    await announce(core, max_running=0)
    broker = Broker(core)
    async with short_way(core, broker, tidies=False) as intake:
        task_ids = [one.accepted.task.task_id for one in await intake.submit_many([draft()] * 3)]
        await until("published", lambda: len(broker.taken) == len(task_ids))
    await core.store.settle_direct({broker.taken[0].seq: 1}, [])
    assert sorted(await rows(core)) == [(task_id, ">") for task_id in sorted(task_ids)]
    await core.claim(await core.open_session(), task_ids[0])
    assert await core.store.recall_direct(0) == len(task_ids) - 1
    assert sorted(await rows(core)) == [(task_id, "") for task_id in sorted(task_ids[1:])]


async def test_what_a_process_of_the_release_before_left_is_fed(core: Core) -> None:
    """It kept its pointers in a lane of the table."""
    await announce(core, max_running=0)
    broker = Broker(core)
    task_id = await core.submit_id()
    await core.sql("UPDATE tasks.pointer SET lane = '>'")
    assert await core.store.recall_direct(60) == 0
    assert await core.store.recall_direct(0) == 1
    assert await broker.feed() == [task_id]


async def accept_many(core: Core, intake: Intake, count: int, owner_id: str) -> list[str]:
    """However slow the machine is, nobody takes this process for dead."""
    receipts = await intake.submit_many([draft(owner_id=owner_id)] * count)
    await core.sql("UPDATE tasks.direct SET at = now() + interval '1 hour'")
    return [receipt.accepted.task.task_id for receipt in receipts]


@dataclass
class Full:
    """A queue that the first of Ann's tasks have filled; the others wait."""

    broker: Broker
    intake: Intake
    direct: Direct
    task_ids: list[str]


@asynccontextmanager
async def full(core: Core, count: int, clock: Clock | None = None) -> AsyncIterator[Full]:
    """With so many tasks of Ann's."""
    await announce(core, max_running=0)
    broker = Broker(core)
    async with opened(core, broker, clock) as (intake, direct):
        task_ids = await accept_many(core, intake, count, "ann")
        await until("as many as there is room for", lambda: len(broker.taken) == 64)
        yield Full(broker, intake, direct, task_ids)


async def empty_queues(core: Core) -> None:
    """Workers have taken everything; the feeder looks again."""
    core.queues.ready.clear()
    await asyncio.sleep(0.03)


async def test_what_finds_no_room_waits_without_a_row_of_its_own(core: Core) -> None:
    """Until the feeder sees room; in order, and each published once."""
    async with full(core, 100) as queue:
        assert {lane for _, lane in await rows(core)} == {">"}
        await empty_queues(core)
        await queue.broker.feeder.feed()
        await until("all published", lambda: len(queue.broker.taken) == len(queue.task_ids))
        assert [one.task_id for one in queue.broker.taken] == queue.task_ids
        await until_rows(core, [])


async def test_owners_take_turns_where_they_wait(core: Core) -> None:
    """Ann has a hundred tasks that found no room; of the next two pointers one is Bob's."""
    async with full(core, 164) as queue:
        (bobs,) = await accept_many(core, queue.intake, 1, "bob")
        await empty_queues(core)
        await queue.broker.feeder.feed()
        await until("the queue is full again", lambda: len(queue.broker.taken) > 66)
        assert bobs in [one.task_id for one in queue.broker.taken[64:66]]


async def test_what_waits_too_long_waits_in_the_table(core: Core) -> None:
    """Where other processes see it too; in its order, and all that comes later comes behind it."""
    clock = FakeClock()
    async with full(core, 100, clock) as queue:
        clock.advance(1.3)
        await until_rows(core, [(task_id, "") for task_id in queue.task_ids[64:]])
        last = await accept(queue.intake, owner_id="ann")
        async with asyncio.timeout(20):
            while len(queue.broker.taken) <= len(queue.task_ids):
                await empty_queues(core)
                await queue.broker.feed()
        assert [one.task_id for one in queue.broker.taken] == [*queue.task_ids, last]


async def test_what_others_put_in_the_table_has_its_turn(core: Core) -> None:
    """Although something always waits here: a retry of another process is published before the line has gone."""
    async with full(core, 200) as queue:
        others = await core.submit_id(owner_id="bob")
        await empty_queues(core)
        await queue.broker.feed()
        await until("the queue is full again", lambda: len(queue.broker.taken) > 100)
        assert others in [one.task_id for one in queue.broker.taken]
        assert len(queue.broker.taken) < 200


async def test_what_waits_here_is_not_taken_for_lost(core: Core) -> None:
    """Neither by the look for what a worker took with it: what waits needs no second pointer."""
    async with full(core, 100):
        assert await core.store.point_again([("builtin", Priority.NORMAL)], 0, 1000) == 0


async def test_a_process_that_ends_leaves_at_once_what_waits(core: Core) -> None:
    """To the table, and takes nothing more on the short way."""
    async with full(core, 100) as queue:
        await queue.direct.close()
        assert sorted(await rows(core)) == [(task_id, "") for task_id in sorted(queue.task_ids[64:])]
        last = await accept(queue.intake)
        assert (last, "") in await rows(core)


async def test_nobody_overtakes_those_who_wait_for_their_turn(core: Core) -> None:
    """With a backlog in the table everything goes there, until the feeder has emptied it."""
    await announce(core, max_running=0)
    broker = Broker(core)
    async with short_way(core, broker) as intake:
        await submit(core, 100, owner_id="ann")
        await broker.feed()
        assert len(broker.taken) == 64
        await accept(intake, owner_id="bob")
        assert {lane for _, lane in await rows(core)} == {""}


async def test_a_kind_with_a_bound_waits_for_its_place(core: Core) -> None:
    """Its pointers are in its own lane, however empty the queue is."""
    await announce(core, max_running=1)
    broker = Broker(core)
    async with short_way(core, broker) as intake:
        await accept(intake)
        assert [lane for _, lane in await rows(core)] == ["automation"]
    assert broker.taken == []
