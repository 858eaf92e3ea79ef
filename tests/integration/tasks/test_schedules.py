"""Schedules on a real database: made, changed, and fired once for each time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from chassis.errors import Invalid, NotFound
from services.tasks.model.cron import Misfire, Schedule, Wish
from tests.integration.tasks.core import Core, draft, open_core

pytestmark = pytest.mark.postgres


async def make(core: Core, **changes: object) -> Schedule:
    values: dict[str, object] = {"name": "n", "cron": "0 * * * *", "timezone": "UTC", "task": draft(), **changes}
    return await core.schedules.create("ann", Wish(**values))  # type: ignore[arg-type]  # a wish's own fields


async def wind_back(core: Core, schedule: Schedule, **ago: float) -> None:
    """As if its next time had been so long ago."""
    at = (datetime.now(UTC) - timedelta(**ago)).replace(minute=0, second=0, microsecond=0)
    await core.sql("UPDATE tasks.cron_schedule SET next_at = $2 WHERE schedule_id = $1", schedule.schedule_id, at)


async def test_a_schedule_is_stored_and_shown(core: Core) -> None:
    """Its next time lies ahead; another owner does not see it."""
    made = await make(core, timezone="Europe/Berlin", misfire=Misfire.ALL)
    shown = await core.schedules.get(made.schedule_id, "ann")
    assert (shown.name, shown.times.timezone, shown.misfire, shown.paused) == ("n", "Europe/Berlin", Misfire.ALL, False)
    assert shown.next_at is not None
    assert datetime.now(UTC) < shown.next_at <= datetime.now(UTC) + timedelta(hours=1)
    assert (await core.schedules.list_schedules("ann", offset=0, limit=0))[1] == 1
    assert (await core.schedules.list_schedules("bob", offset=0, limit=0))[1] == 0
    with pytest.raises(NotFound):
        await core.schedules.get(made.schedule_id, "bob")


async def test_several_processes_fire_a_time_once(core: Core, tasks_url: str) -> None:
    """Eight looks at once by two processes make one task, and the next time lies ahead."""
    schedule = await make(core, task=draft(payload=b'{"n":1}', priority=3, labels=b'{"title":"t"}'))
    async with open_core(tasks_url) as other:
        await other.figures.read_kinds()
        await wind_back(core, schedule, minutes=0)
        await asyncio.gather(*(process.schedules.fire() for process in (core, other) for _ in range(4)))
    tasks, total = await core.queries.list_tasks("ann", [], [], offset=0, limit=10)
    assert total == 1
    assert (tasks[0].schedule_id, tasks[0].priority) == (schedule.schedule_id, 3)
    shown = await core.schedules.get(schedule.schedule_id, "ann")
    assert shown.last_task_id == tasks[0].task_id
    assert shown.next_at is not None
    assert shown.next_at > datetime.now(UTC)


async def test_a_time_that_was_fired_is_never_fired_again(core: Core) -> None:
    """Also when somebody turns the schedule back: the row of the time decides."""
    schedule = await make(core, misfire=Misfire.ALL)
    for _ in range(3):
        await wind_back(core, schedule, hours=3)
        await core.schedules.fire()
    fires = (await core.sql("SELECT count(*) FROM tasks.cron_fire"))[0][0]
    assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == fires
    assert fires in {4, 5}  # an hour may have begun in between


@pytest.mark.parametrize(("misfire", "tasks"), [(Misfire.SKIP, {0, 1}), (Misfire.ONCE, {1, 2})])
async def test_an_outage_is_skipped_or_made_up_for_once(core: Core, misfire: Misfire, tasks: set[int]) -> None:
    """Five hourly times were missed. One more is there when the hour began within the last minute."""
    schedule = await make(core, misfire=misfire)
    await wind_back(core, schedule, hours=5)
    await core.schedules.fire()
    assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] in tasks


async def test_a_paused_schedule_does_nothing_until_it_is_resumed(core: Core) -> None:
    """Times that pass while it is paused are not made up for."""
    schedule = await make(core)
    paused = await core.schedules.update(schedule.schedule_id, "ann", Wish(paused=True))
    assert (paused.paused, paused.next_at) == (True, None)
    assert not await core.schedules.fire()
    resumed = await core.schedules.update(schedule.schedule_id, "ann", Wish(paused=False))
    assert resumed.next_at is not None
    assert resumed.next_at > datetime.now(UTC)


async def test_a_change_takes_what_is_given(core: Core) -> None:
    """New times count from now on; what is wrong changes nothing."""
    schedule = await make(core)
    changed = await core.schedules.update(schedule.schedule_id, "ann", Wish(cron="30 4 * * *", name="later"))
    assert (changed.name, changed.times.cron, changed.task.kind) == ("later", "30 4 * * *", "automation")
    assert changed.next_at is not None
    assert (changed.next_at.hour, changed.next_at.minute) == (4, 30)
    for wrong, code in (
        (Wish(cron="nonsense"), "INVALID_CRON"),
        (Wish(timezone="Nowhere"), "INVALID_TIMEZONE"),
        (Wish(task=draft(kind="nobody.knows")), "UNKNOWN_KIND"),
        (Wish(task=draft(payload=b"NaN")), "VALIDATION_ERROR"),
        (Wish(misfire=9), "VALIDATION_ERROR"),
    ):
        with pytest.raises(Invalid) as caught:
            await core.schedules.update(schedule.schedule_id, "ann", wrong)
        assert caught.value.code == code
    assert await core.schedules.get(schedule.schedule_id, "ann") == changed


async def test_a_full_queue_delays_a_schedule_and_loses_nothing(tasks_url: str) -> None:
    """The time stays due until there is a place."""
    async with open_core(tasks_url, most_queued=1) as core:
        blocking = await core.submit_id()
        schedule = await make(core)
        await wind_back(core, schedule, minutes=0)
        await core.schedules.fire()
        assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 1
        await core.queries.cancel(blocking, "")
        await core.upkeep.refresh()
        await core.schedules.fire()
        assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 2


async def test_a_deleted_schedule_is_gone_and_its_tasks_are_not(core: Core) -> None:
    """The second deletion finds nothing."""
    schedule = await make(core)
    await wind_back(core, schedule, minutes=0)
    await core.schedules.fire()
    await core.schedules.delete(schedule.schedule_id, "ann")
    with pytest.raises(NotFound):
        await core.schedules.delete(schedule.schedule_id, "ann")
    assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 1
    assert (await core.sql("SELECT count(*) FROM tasks.cron_fire"))[0][0] == 0
