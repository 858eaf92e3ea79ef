"""Tasks that run after others, and keys that only one live task has."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from chassis.errors import Conflict, Exhausted, Invalid
from services.tasks.model.states import Due, Join, State
from services.tasks.model.work import Outcome
from services.tasks.store import linking
from tests.integration.tasks.core import Core, draft, failure, open_core, success

pytestmark = pytest.mark.postgres


async def state_of(core: Core, task_id: str) -> State:
    """After everything that is due was done."""
    while await core.sql("SELECT 1 FROM tasks.schedule WHERE due_at <= clock_timestamp()"):
        await core.upkeep.release()
    return (await core.queries.get(task_id, "")).state


async def end(core: Core, session: str, task_id: str, *, well: bool = True) -> None:
    assert await core.claim(session, task_id)
    outcome = success(task_id) if well else failure(task_id, retryable=False)
    assert await core.finish(session, outcome) == []


async def until_waiting(core: Core, count: int) -> None:
    """Until so many wait for a lock that somebody holds."""
    statement = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(30):
        while len(await core.sql(statement)) < count:
            await asyncio.sleep(0.01)


async def test_a_task_waits_for_all_that_it_runs_after(core: Core) -> None:
    """It has no pointer before, and one right after the last of them; that commit says that a timer is due."""
    session = await core.open_session()
    first, second = await core.submit_id(), await core.submit_id()
    after = await core.submit_id(run_after=(first, second, first))
    assert await state_of(core, after) is State.SCHEDULED
    await end(core, session, first)
    assert await state_of(core, after) is State.SCHEDULED
    core.due.clear()
    await end(core, session, second)
    assert Due.TIMERS in core.due
    assert await state_of(core, after) is State.QUEUED
    assert (await core.pointers())[-1] == (after, "work.builtin.p2")
    assert await core.event_types(after) == ["queued", "queued"]


async def test_any_of_them_is_enough_when_the_task_says_so(core: Core) -> None:
    """Also when another one failed before."""
    session = await core.open_session()
    first, second, third = [await core.submit_id() for _ in range(3)]
    after = await core.submit_id(run_after=(first, second, third), join=Join.ANY)
    await end(core, session, first, well=False)
    assert await state_of(core, after) is State.SCHEDULED
    await end(core, session, second)
    assert await state_of(core, after) is State.QUEUED


async def test_a_failure_cancels_everything_behind_it(core: Core) -> None:
    """With its reason, down the whole line."""
    session = await core.open_session()
    first = await core.submit_id()
    line = [await core.submit_id(run_after=(first,))]
    for _ in range(3):
        line.append(await core.submit_id(run_after=(line[-1],)))
    await end(core, session, first, well=False)
    assert [await state_of(core, task_id) for task_id in line] == [State.CANCELLED] * 4
    error = (await core.queries.get(line[-1], "")).error
    assert error is not None
    assert error.code == "DEPENDENCY_FAILED"


async def test_what_has_ended_before_counts_at_once(core: Core) -> None:
    """A task may run after one that is over: it is queued, or cancelled when that one failed."""
    session = await core.open_session()
    good, bad = await core.submit_id(), await core.submit_id()
    await end(core, session, good)
    await end(core, session, bad, well=False)
    assert await state_of(core, await core.submit_id(run_after=(good,))) is State.QUEUED
    assert await state_of(core, await core.submit_id(run_after=(good, bad))) is State.CANCELLED


async def test_an_end_that_races_with_the_submission_is_seen(core: Core) -> None:
    """Forty times both at once: nobody waits for ever."""
    session = await core.open_session()
    for _ in range(40):
        first = await core.run(session)
        after, _ = await asyncio.gather(core.submit_id(run_after=(first,)), core.finish(session, success(first)))
        assert await state_of(core, after) is State.QUEUED


async def test_who_begins_to_wait_while_the_result_is_written_is_seen(core: Core) -> None:
    """A result whose statement began before the submission's commit, and had to wait for it, tells those who wait."""
    session = await core.open_session()
    first, waiting = await core.run(session), await core.submit_id(run_at=datetime.now(UTC) + timedelta(hours=1))
    async with core.database.driver() as pg:
        await pg.execute(linking._AWAIT_PREREQUISITES, [first])
        finishing = asyncio.ensure_future(core.finish(session, success(first)))
        await until_waiting(core, 1)
        await pg.execute("INSERT INTO tasks.prerequisite (after_id, task_id) VALUES ($1, $2)", first, waiting)
    assert await finishing == []
    assert await core.sql("SELECT task_id FROM tasks.schedule WHERE purpose = 3") == [(waiting,)]


async def test_a_time_and_a_prerequisite_are_both_waited_for(core: Core) -> None:
    """The prerequisite first, and then the time."""
    session = await core.open_session()
    first = await core.submit_id()
    after = await core.submit_id(run_after=(first,), run_at=datetime.now(UTC) + timedelta(hours=1))
    await end(core, session, first)
    assert await state_of(core, after) is State.SCHEDULED
    await core.sql("UPDATE tasks.task SET run_at = now() WHERE task_id = $1", after)
    await core.sql("UPDATE tasks.schedule SET due_at = now()")
    assert await state_of(core, after) is State.QUEUED


@pytest.mark.parametrize("named", ["task_01J0000000000000000000000A", "nonsense", "#name", "a\x00b", "foreign"])
async def test_unknown_and_foreign_tasks_are_no_prerequisites(core: Core, named: str) -> None:
    """Nothing is stored, not even the idempotency key."""
    foreign = await core.submit_id(owner_id="bob")
    with pytest.raises(Invalid) as caught:
        await core.submit(run_after=(foreign if named == "foreign" else named,), idempotency_key="k")
    assert caught.value.code == "UNKNOWN_PREREQUISITE"
    assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 1
    assert (await core.submit(idempotency_key="k")).accepted.is_new


async def test_a_refused_submission_holds_up_nobody(core: Core) -> None:
    """While it is refused no row of the tasks it names is locked or changed, and none is marked as awaited after it."""
    foreign, own = await core.submit_id(owner_id="bob"), await core.submit_id()
    async with core.database.driver() as pg:
        await pg.fetch("SELECT 1 FROM tasks.task_live FOR UPDATE")
        with pytest.raises(Invalid):
            async with asyncio.timeout(30):
                await core.intake.submit_many([draft(run_after=(own, foreign))])
    assert await core.sql("SELECT task_id FROM tasks.task_live WHERE awaited") == []


async def test_batches_that_name_the_same_tasks_by_twin_and_by_id_do_not_deadlock(core: Core) -> None:
    """Each names one by its id and the other by its unique key, crosswise, and waits for its keys before it goes on."""
    twins = [await core.submit_id(unique_key=key) for key in "ab"]
    batches = [
        [draft(unique_key=key, name="twin"), draft(run_after=(named, "#twin"))]
        for named, key in zip(twins, "ba", strict=True)
    ]
    async with core.database.driver() as pg:
        digests = await pg.fetch("SELECT unique_digest FROM tasks.task_live")
        await linking.find_holders(pg, [row["unique_digest"] for row in digests])
        submitting = [asyncio.ensure_future(core.intake.submit_many(batch)) for batch in batches]
        await until_waiting(core, 2)
    async with asyncio.timeout(30):
        accepted = await asyncio.gather(*submitting)
    assert [set(last.accepted.task.run_after) for _, last in accepted] == [set(twins)] * 2


async def test_a_graph_is_accepted_in_one_commit(core: Core) -> None:
    """Names become ids, whatever the order."""
    last, first = await core.intake.submit_many([draft(run_after=("#a",)), draft(name="a")])
    assert last.accepted.task.run_after == (first.accepted.task.task_id,)
    assert await state_of(core, last.accepted.task.task_id) is State.SCHEDULED
    assert (await core.sql("SELECT count(DISTINCT xmin::text) FROM tasks.task"))[0][0] == 1


async def test_a_graph_is_accepted_whole_or_not_at_all(core: Core) -> None:
    """A circle, a wrong kind, an unknown task, a used key: each leaves nothing behind and says which one."""
    await core.submit(idempotency_key="used")
    for wrong, code in (
        ({"name": "b", "run_after": ("#b",)}, "DEPENDENCY_CYCLE"),
        ({"kind": "nobody.knows"}, "UNKNOWN_KIND"),
        ({"run_after": ("task_01J0000000000000000000000A",)}, "UNKNOWN_PREREQUISITE"),
        ({"payload": b"NaN"}, "VALIDATION_ERROR"),
        ({"idempotency_key": "used", "payload": b"[]"}, "IDEMPOTENCY_MISMATCH"),
    ):
        with pytest.raises((Invalid, Conflict)) as caught:
            await core.intake.submit_many([draft(idempotency_key="fresh"), draft(**wrong)])
        assert (caught.value.code, caught.value.details["index"]) == (code, "1")
    assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 1
    assert (await core.sql("SELECT count(*) FROM tasks.idem"))[0][0] == 1


async def test_a_graph_that_does_not_fit_is_refused_whole(tasks_url: str) -> None:
    """The bound holds for all of it."""
    async with open_core(tasks_url, most_queued=3) as core:
        with pytest.raises(Exhausted):
            await core.intake.submit_many([draft()] * 4)
        assert len(await core.intake.submit_many([draft()] * 3)) == 3


async def test_one_live_task_has_a_unique_key_however_many_race(core: Core, tasks_url: str) -> None:
    """64 submissions by two processes get the same task, and one of them made it."""
    async with open_core(tasks_url) as other:
        receipts = await asyncio.gather(*(p.submit(unique_key="u") for p in (core, other) for _ in range(32)))
    assert len({receipt.accepted.task.task_id for receipt in receipts}) == 1
    assert [receipt.accepted.duplicate for receipt in receipts].count(False) == 1


async def test_a_unique_key_is_free_when_its_task_has_ended(core: Core) -> None:
    """And it is one of its owner's and its kind's."""
    session = await core.open_session()
    first = await core.submit_id(unique_key="u")
    assert await core.submit_id(unique_key="u", owner_id="bob") != first
    await end(core, session, first)
    assert (await core.submit(unique_key="u")).accepted.is_new


async def test_both_kinds_of_keys_agree(core: Core) -> None:
    """A duplicate's idempotency key replays the live task, also when that has ended."""
    session = await core.open_session()
    first = await core.submit_id(unique_key="u")
    second = await core.submit(unique_key="u", idempotency_key="k")
    assert (second.accepted.task.task_id, second.accepted.duplicate) == (first, True)
    assert await core.claim(session, first)
    await core.finish(session, Outcome(task_id=first, attempt=1, result=b"1"))
    again = await core.submit(unique_key="u", idempotency_key="k")
    assert (again.accepted.task.task_id, again.accepted.replayed) == (first, True)
