"""A cancellation and a result at the same moment: one of them wins, and everybody is told the same."""

import asyncio
import random
from typing import Any

import pytest

from chassis.errors import Conflict
from services.tasks.model.states import State
from tests.integration.tasks.core import Core, failure, open_core, success

pytestmark = pytest.mark.postgres

_AT_ONCE = 100
_ENDS = {State.SUCCEEDED: "succeeded", State.CANCELLED: "cancelled"}


async def race(core: Core, session: str, rng: random.Random) -> None:
    """A hundred running tasks, each cancelled and ended by its worker at once, in any order."""
    receipts = await asyncio.gather(*(core.submit() for _ in range(_AT_ONCE)))
    task_ids = [receipt.accepted.task.task_id for receipt in receipts]
    assert len(await core.claim(session, *task_ids)) == _AT_ONCE
    outcomes = [success(one) if rng.random() < 0.7 else failure(one) for one in task_ids]
    calls: list[Any] = [core.queries.cancel(task_id, "") for task_id in task_ids]
    calls += [core.finish(session, outcome) for outcome in outcomes]
    rng.shuffle(calls)
    refused = [one for one in await asyncio.gather(*calls, return_exceptions=True) if isinstance(one, Exception)]
    assert {type(error) for error in refused} <= {Conflict}
    # None is left: one that failed first was cancelled while it waited for its retry.
    for task_id in task_ids:
        task, feed = await core.store.find(task_id, ""), await core.store.list_events(task_id, 0, 100)
        assert task is not None
        ends = [event.type for event in feed if event.type in _ENDS.values()]
        assert ends == [_ENDS[task.state]]
        assert feed[-1].type == ends[0]
        assert [event.sequence for event in feed] == list(range(1, len(feed) + 1))


async def test_a_race_has_one_end(core: Core) -> None:
    """Three hundred trials."""
    session = await core.open_session()
    for seed in range(3):
        await race(core, session, random.Random(seed))


@pytest.mark.long
async def test_ten_thousand_races_have_one_end_each(core: Core) -> None:
    """The same, until a rare order has come up too."""
    session = await core.open_session()
    for seed in range(100):
        await race(core, session, random.Random(seed))


async def test_rows_that_change_while_a_statement_waits_for_them_are_looked_at_again(core: Core) -> None:
    """Results and failures that were begun before a commit that changes their rows; once this killed Postgres."""
    session = await core.open_session()
    receipts = await asyncio.gather(*(core.submit() for _ in range(_AT_ONCE)))
    task_ids = sorted(receipt.accepted.task.task_id for receipt in receipts)
    assert len(await core.claim(session, *task_ids)) == _AT_ONCE
    async with core.database.driver() as pg:
        await pg.execute("UPDATE tasks.task_live SET progress = 0.5, partial = $1", b"x" * 3000)
        outcomes = [success(one) if number % 2 else failure(one) for number, one in enumerate(task_ids)]
        finishing = asyncio.ensure_future(core.finish(session, *outcomes))
        async with asyncio.timeout(30):
            while not await core.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
    assert await finishing == []
    assert await core.sql("SELECT count(*) FROM tasks.task_result") == [(_AT_ONCE // 2,)]


async def test_results_lock_their_tasks_in_the_order_of_ids(tasks_url: str) -> None:
    """However large they are beside the memory the server gives by itself: who waits for the first holds no other."""
    async with open_core(tasks_url) as core:
        await core.sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$")
    async with open_core(tasks_url) as core:
        session = await core.open_session()
        receipts = await asyncio.gather(*(core.submit() for _ in range(_AT_ONCE)))
        task_ids = sorted(receipt.accepted.task.task_id for receipt in receipts)
        assert len(await core.claim(session, *task_ids)) == _AT_ONCE
        async with core.database.driver() as pg:
            await pg.execute("SELECT FROM tasks.task_live WHERE task_id = $1 FOR UPDATE", task_ids[0])
            outcomes = [success(one, result=b'"%s"' % (b"x" * 5000)) for one in task_ids]
            finishing = asyncio.ensure_future(core.finish(session, *outcomes))
            async with asyncio.timeout(30):
                while not await core.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
            assert len(await pg.fetch("SELECT FROM tasks.task_live FOR UPDATE SKIP LOCKED")) == _AT_ONCE
        assert await finishing == []
