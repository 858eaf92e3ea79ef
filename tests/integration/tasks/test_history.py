"""History by day: parts made ahead, dropped when they are old, kept while something in them is alive."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from chassis import migrations
from chassis.config import Postgres
from services.tasks.model.ids import first_id
from services.tasks.operations.checks import check_draft
from tests.integration.tasks.core import KIND, Core, draft, open_core, success
from tests.support.databases import Databases

pytestmark = pytest.mark.postgres

DAY = timedelta(days=1)


async def parts(core: Core, table: str = "task") -> list[str]:
    rows = await core.sql(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = ('tasks.' || $1)::regclass ORDER BY 1",
        table,
    )
    return [row[0].removeprefix("tasks_history.") for row in rows]


async def add_old_days(core: Core, count: int) -> None:
    """As if the service had run for so many days already: the first part ends that long ago."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for table in ("task", "task_result", "task_event"):
        await core.sql(f"ALTER TABLE tasks.{table} DETACH PARTITION tasks_history.{table}_before")
        upper = first_id("task", today - count * DAY)
        await core.sql(
            f"ALTER TABLE tasks.{table} ATTACH PARTITION tasks_history.{table}_before"
            f" FOR VALUES FROM (MINVALUE) TO ('{upper}')"
        )
        for ago in range(count, -1, -1):
            day = today - ago * DAY
            lower, upper = first_id("task", day), first_id("task", day + DAY)
            await core.sql(
                f"CREATE TABLE tasks_history.{table}_p{day:%Y%m%d} PARTITION OF tasks.{table}"
                f" FOR VALUES FROM ('{lower}') TO ('{upper}')"
            )


async def submit_at(core: Core, at: datetime, **changes: Any) -> str:
    """A task as it would have been accepted then."""
    task_id = f"{first_id('task', at)}{uuid4().hex[:16].upper()}"
    await core.store.accept([check_draft(draft(**changes), KIND, task_id, datetime.now(UTC))])
    return task_id


async def test_days_are_made_ahead_once(core: Core) -> None:
    """Two processes at once, and again: each day has one part in each table."""
    now = datetime.now(UTC)
    async with asyncio.timeout(30):
        await asyncio.gather(*(core.store.keep_days(now + 3 * DAY, ahead=7, retained=14) for _ in range(4)))
    days = [f"p{now + number * DAY:%Y%m%d}" for number in range(1, 11)]
    for table in ("task", "task_result", "task_event"):
        assert await parts(core, table) == [f"{table}_before", *(f"{table}_{day}" for day in days)]


async def test_a_task_goes_into_its_day_and_is_found_there(core: Core) -> None:
    """From submission to result, on a day that is still to come."""
    session = await core.open_session()
    at = datetime.now(UTC) + 2 * DAY
    task_id = await submit_at(core, at)
    today = await core.submit_id()
    assert len(await core.claim(session, task_id, today)) == 2
    assert await core.finish(session, success(task_id), success(today)) == []
    assert (await core.queries.get(task_id, "ann")).result == b'{"ok":true}'
    rows = await core.sql("SELECT tableoid::regclass::text FROM tasks.task_result WHERE task_id = $1", task_id)
    assert rows[0][0] == f"tasks_history.task_result_p{at:%Y%m%d}"
    listed, total = await core.queries.list_tasks("ann", [], [], offset=0, limit=10)
    assert ([task.task_id for task in listed], total) == ([task_id, today], 2)


async def test_old_days_are_dropped_and_what_is_alive_is_kept(core: Core) -> None:
    """A day with a live task stays whole; the days around it go, with their dead letters."""
    await add_old_days(core, 6)
    now = datetime.now(UTC)
    alive = await submit_at(core, now - 5 * DAY, run_at=now + 100 * DAY)
    ended = await submit_at(core, now - 4 * DAY)
    await core.queries.cancel(ended, "")
    await core.queries.requeue(ended, "", 1)
    await core.queries.cancel(ended, "")
    young = await submit_at(core, now - 3 * DAY)
    dropped = await core.store.keep_days(now, ahead=0, retained=3)
    assert sorted(dropped) == ["task_before", f"task_p{now - 6 * DAY:%Y%m%d}", f"task_p{now - 4 * DAY:%Y%m%d}"]
    assert {row[0] for row in await core.sql("SELECT task_id FROM tasks.task")} == {alive, young}
    assert await core.sql("SELECT 1 FROM tasks.dead_letter") == []
    assert await core.store.find(ended, "") is None
    await core.queries.cancel(alive, "")
    assert await core.store.keep_days(now, ahead=0, retained=3) == [f"task_p{now - 5 * DAY:%Y%m%d}"]


async def test_days_are_dropped_under_load_without_an_error(core: Core, tasks_url: str) -> None:
    """Submissions, claims and results go on meanwhile; who cannot have its locks comes again later."""
    await add_old_days(core, 20)
    session = await core.open_session()
    going = True

    async def work() -> None:
        while going:
            assert await core.finish(session, success(await core.run(session))) == []

    working = [asyncio.ensure_future(work()) for _ in range(8)]
    async with open_core(tasks_url) as other, asyncio.timeout(60):
        while len(await parts(other)) > 3 + 1 + 7:
            await other.store.keep_days(datetime.now(UTC), ahead=0, retained=3)
    going = False
    await asyncio.gather(*working)


def test_an_upgrade_keeps_what_there_was(databases: Databases) -> None:
    """Tasks of the schema before are found after it, and what waited for the broker waits for it still."""
    name = databases.make()
    settings = Postgres(url=databases.url(name))
    migrations.upgrade("tasks", settings, "0001")
    asyncio.run(_add_old_task(databases.url(name)))
    migrations.upgrade("tasks", settings)
    state, pointers = asyncio.run(_read_old_task(databases.url(name)))
    assert (state, pointers) == ("QUEUED", [("task_01KAAAAAAAAAAAAAAAAAAAAAAA", "work.g.p2")])
    databases.drop(name)


async def _add_old_task(url: str) -> None:
    async with open_core(url) as core:
        await core.sql(
            "INSERT INTO tasks.task VALUES ('task_01KAAAAAAAAAAAAAAAAAAAAAAA', 'ann', 'automation', 'g', 2, '{}', '',"
            " 3, 60, NULL, NULL, '', now())"
        )
        await core.sql(
            "INSERT INTO tasks.task_live (task_id, state, work_group, priority, max_attempts, sequence, enqueued_at)"
            " VALUES ('task_01KAAAAAAAAAAAAAAAAAAAAAAA', 2, 'g', 2, 3, 1, now())"
        )
        await core.sql(
            "INSERT INTO tasks.outbox (id, exchange, routing_key, type, body, subject, source)"
            " VALUES ('a', 'mesh.work', 'work.g.p2', 't', '', 'task_01KAAAAAAAAAAAAAAAAAAAAAAA', 'tasks')"
        )


async def _read_old_task(url: str) -> tuple[str, list[tuple[str, str]]]:
    async with open_core(url) as core:
        task = await core.queries.get("task_01KAAAAAAAAAAAAAAAAAAAAAAA", "ann")
        return task.state.name, await core.pointers()
