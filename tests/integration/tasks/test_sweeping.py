"""What goes on by itself, on a real database: lost sessions, timers, deadlines, cancellations, lost pointers."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chassis.errors import Conflict, NotFound
from services.tasks.model.rules import MAX_LOST
from services.tasks.model.states import Priority, State
from services.tasks.model.work import Pointer
from tests.integration.tasks.core import Core, open_core, success

pytestmark = pytest.mark.postgres


async def reconcile(core: Core) -> None:
    """As many rounds as it takes until everything was looked at."""
    for _ in range(10):
        await core.upkeep.reconcile()


async def test_what_a_lost_session_held_runs_again_and_its_old_result_is_refused(core: Core) -> None:
    """The zombie that comes back after its lease finds its attempt fenced."""
    zombie, heir = await core.open_session(), await core.open_session()
    task_id = await core.run(zombie)
    await core.upkeep.sweep()
    assert (await core.queries.get(task_id, "")).state is State.RUNNING
    await core.lose(zombie)
    await core.upkeep.sweep()
    assert (await core.pointers())[-1] == (task_id, "work.builtin.p2")
    assert await core.finish(zombie, success(task_id)) == [Pointer(task_id=task_id, attempt=1)]
    assert [(one.attempt, one.max_attempts) for one in await core.claim(heir, task_id, attempt=1)] == [(2, 4)]
    assert await core.finish(zombie, success(task_id, attempt=2)) == [Pointer(task_id=task_id, attempt=2)]
    assert await core.finish(heir, success(task_id, attempt=2)) == []
    assert await core.event_types(task_id) == ["queued", "started", "queued", "started", "succeeded"]


async def look(core: Core, ago_seconds: float) -> None:
    """Nobody has looked for leases that are over since then."""
    await core.sql("UPDATE tasks.lease_watch SET looked_at = now() - make_interval(secs => $1)", ago_seconds)


async def expire(core: Core, session: str, ago_seconds: float) -> None:
    await core.sql(
        "UPDATE tasks.worker_session SET lease_until = now() - make_interval(secs => $2) WHERE session_id = $1",
        session,
        ago_seconds,
    )


async def test_an_outage_costs_no_leases(core: Core) -> None:
    """What ran when nobody could beat any more goes on; what was over before that is taken away."""
    working, vanished = await core.open_session(), await core.open_session()
    task_id, lost_id = await core.run(working), await core.run(vanished)
    await expire(core, working, 11)
    await expire(core, vanished, 25)
    await look(core, 20)
    await core.upkeep.sweep()
    assert (await core.queries.get(task_id, "")).state is State.RUNNING
    assert (await core.queries.get(lost_id, "")).state is State.QUEUED
    assert [held.task_id for held in await core.desk.beat(working)] == [task_id]


async def test_a_heartbeat_that_comes_first_after_an_outage_counts(core: Core) -> None:
    """Before anybody has looked the lease is not over; that of a session that was lost before the outage is."""
    working, vanished = await core.open_session(), await core.open_session()
    task_id = await core.run(working)
    await expire(core, working, 11)
    await expire(core, vanished, 25)
    await look(core, 20)
    assert [held.task_id for held in await core.desk.beat(working)] == [task_id]
    with pytest.raises(NotFound):
        await core.desk.beat(vanished)
    await core.upkeep.sweep()
    assert (await core.queries.get(task_id, "")).state is State.RUNNING


async def test_without_an_outage_a_lease_ends_in_time(core: Core) -> None:
    """Looking twice a second prolongs nothing."""
    session = await core.open_session()
    task_id = await core.run(session)
    await expire(core, session, 0.1)
    # Whatever this machine does in between: nobody has failed to look.
    await look(core, -3600)
    await core.upkeep.sweep()
    assert (await core.queries.get(task_id, "")).state is State.QUEUED


async def test_a_task_that_kills_its_workers_ends_dead(core: Core) -> None:
    """After the third loss it is a dead letter and no loop."""
    task_id = await core.submit_id()
    for attempt in range(MAX_LOST):
        session = await core.open_session()
        assert await core.claim(session, task_id, attempt=attempt)
        await core.lose(session)
        await core.upkeep.sweep()
    task: Any = await core.queries.get(task_id, "")
    assert (task.state, task.error.code) == (State.DEAD, "WORKER_LOST")


async def test_two_sweepers_take_each_attempt_once(core: Core, tasks_url: str) -> None:
    """Several processes sweep at the same time; every lost attempt gets one new pointer."""
    session = await core.open_session()
    task_ids = [await core.submit_id() for _ in range(50)]
    await core.claim(session, *task_ids)
    await core.lose(session)
    async with open_core(tasks_url) as other:
        await asyncio.gather(*(process.upkeep.sweep() for process in (core, other) * 4))
    assert len(await core.pointers()) == 100
    assert {row[0] for row in await core.sql("SELECT lost FROM tasks.task_live")} == {1}


async def test_a_deadline_ends_what_waits_and_what_runs(core: Core) -> None:
    """A waiting task expires, a running one fails; both for good."""
    session = await core.open_session()
    at = datetime.now(UTC) + timedelta(hours=1)
    waiting, running = await core.submit_id(deadline_at=at), await core.run(session, deadline_at=at)
    await core.sql("UPDATE tasks.schedule SET due_at = now()")
    await core.upkeep.release()
    assert (await core.queries.get(waiting, "")).state is State.EXPIRED
    task: Any = await core.queries.get(running, "")
    assert (task.state, task.error.code) == (State.FAILED, "TIMEOUT")
    assert await core.finish(session, success(running)) == [Pointer(task_id=running, attempt=1)]


async def test_an_attempt_past_its_time_is_taken_away(core: Core) -> None:
    """A worker that beats but never ends loses the attempt, as a failure that may be tried again."""
    session = await core.open_session()
    task_id = await core.run(session)
    await core.upkeep.end_overdue()
    assert (await core.queries.get(task_id, "")).state is State.RUNNING
    await core.sql("UPDATE tasks.task_live SET timeout_at = now()")
    await core.upkeep.end_overdue()
    assert (await core.queries.get(task_id, "")).state is State.SCHEDULED
    assert await core.finish(session, success(task_id)) == [Pointer(task_id=task_id, attempt=1)]


async def test_cancelling_ends_what_waits_and_asks_what_runs(core: Core) -> None:
    """A waiting task can never start; a running one that ignores it is ended after the grace."""
    session = await core.open_session()
    waiting, running = await core.submit_id(), await core.run(session)
    assert (await core.queries.cancel(waiting, "ann")).state is State.CANCELLED
    assert await core.claim(session, waiting) == ()
    assert (await core.queries.cancel(waiting, "ann")).state is State.CANCELLED
    assert (await core.queries.cancel(running, "ann")).state is State.RUNNING
    await core.sql("UPDATE tasks.task_live SET cancel_at = now() - interval '1 minute'")
    await core.upkeep.end_overdue()
    assert (await core.queries.get(running, "")).state is State.CANCELLED
    assert await core.finish(session, success(running)) == [Pointer(task_id=running, attempt=1)]


async def test_foreign_tasks_do_not_exist(core: Core) -> None:
    """Reading, listing, cancelling: another owner's task is not found and stays as it is."""
    task_id = await core.submit_id()
    for call in (core.queries.get(task_id, "bob"), core.queries.cancel(task_id, "bob"), core.queries.get("x\x00", "")):
        with pytest.raises(NotFound):
            await call
    assert await core.queries.list_tasks("bob", [], [], offset=0, limit=0) == ([], 0)
    assert (await core.queries.get(task_id, "ann")).state is State.QUEUED


async def test_completion_and_cancellation_race_to_one_end(core: Core, tasks_url: str) -> None:
    """Whoever commits first decides; the state, the feed and the answers agree."""
    session = await core.open_session()
    task_ids = [await core.submit_id() for _ in range(100)]
    await core.claim(session, *task_ids)
    async with open_core(tasks_url) as other:
        results = [core.finish(session, success(task_id)) for task_id in task_ids]
        cancels = [other.queries.cancel(task_id, "ann") for task_id in task_ids]
        answers = await asyncio.gather(*results, *cancels, return_exceptions=True)
    unexpected = [one for one in answers if isinstance(one, BaseException) and not isinstance(one, Conflict)]
    assert unexpected == []
    for task_id in task_ids:
        assert (await core.queries.get(task_id, "")).state is State.SUCCEEDED
        assert (await core.event_types(task_id))[-1:] == ["succeeded"]


async def test_batches_in_opposite_orders_do_not_deadlock(core: Core, tasks_url: str) -> None:
    """Two processes claim, finish and cancel the same rows in opposite orders, and all calls come back."""
    session = await core.open_session()
    task_ids = [await core.submit_id() for _ in range(100)]
    async with open_core(tasks_url) as other:
        await asyncio.gather(core.claim(session, *task_ids), other.claim(session, *reversed(task_ids)))
        outcomes = [success(task_id) for task_id in task_ids]
        await asyncio.gather(core.finish(session, *outcomes), other.finish(session, *reversed(outcomes)))
    rows = await core.sql("SELECT state, count(*) FROM tasks.task_result GROUP BY state")
    assert [tuple(row) for row in rows] == [(State.SUCCEEDED, 100)]


async def test_a_task_whose_pointer_the_broker_lost_gets_a_new_one(core: Core) -> None:
    """Only when its queue is empty, and only once it has waited for a while."""
    task_id = await core.submit_id()
    await core.upkeep.refresh()
    core.queues.empty = [("builtin", Priority.NORMAL)]
    await core.sql("DELETE FROM tasks.pointer")
    # However long this machine takes for the rounds.
    await core.sql("UPDATE tasks.task_live SET enqueued_at = now() + interval '1 minute'")
    await reconcile(core)
    assert await core.pointers() == []
    await core.sql("UPDATE tasks.task_live SET enqueued_at = now() - interval '1 minute'")
    core.queues.empty = []
    await reconcile(core)
    assert await core.pointers() == []
    core.queues.empty = [("builtin", Priority.NORMAL)]
    await reconcile(core)
    await core.sql("UPDATE tasks.task_live SET enqueued_at = now() - interval '1 minute'")
    # It waits to be published now, and is not lost.
    await reconcile(core)
    assert await core.pointers() == [(task_id, "work.builtin.p2")]


async def test_pruning_forgets_what_is_over_and_nothing_else(core: Core) -> None:
    """Expired keys and old sessions go; a session that something live points at stays."""
    holding, gone = await core.open_session(), await core.open_session()
    await core.run(holding, idempotency_key="old")
    await core.submit(idempotency_key="new")
    await core.sql("UPDATE tasks.idem SET expires_at = now() WHERE key = 'old'")
    await core.sql("UPDATE tasks.worker_session SET lease_until = now() - interval '2 hours'")
    await core.upkeep.prune()
    assert [row[0] for row in await core.sql("SELECT key FROM tasks.idem")] == ["new"]
    assert [row[0] for row in await core.sql("SELECT session_id FROM tasks.worker_session")] == [holding]
    assert gone != holding


async def test_the_summary_counts_what_is_there(core: Core) -> None:
    """Depths, workers, totals and rates are measured."""
    session = await core.open_session()
    ended, failed, running = [await core.run(session) for _ in range(3)]
    await core.submit(priority=1)
    await core.finish(session, success(ended))
    await core.queries.cancel(failed, "")
    await core.upkeep.refresh()
    summary = core.figures.summary
    assert [(d.group, d.priority, d.queued, d.running) for d in summary.depths] == [
        ("builtin", Priority.LOW, 1, 0),
        ("builtin", Priority.NORMAL, 0, 2),
    ]
    assert [(w.session_id, w.running, w.finished, w.slots) for w in summary.workers] == [(session, 2, 1, 10)]
    assert [(r.ended, r.failed, r.ended_per_second) for r in summary.rates] == [(1, 0, 1 / 60)]
    assert running
    await core.upkeep.prune()


async def test_a_pointer_that_a_vanished_worker_swallows_is_sent_again_soon(core: Core) -> None:
    """After a loss the next round does it, long before a pointer counts as forgotten otherwise."""
    session = await core.open_session()
    task_id = await core.run(session)
    await core.lose(session)
    await core.upkeep.sweep()
    await core.sql("DELETE FROM tasks.pointer")
    core.queues.empty = [("builtin", Priority.NORMAL)]
    await core.sql("UPDATE tasks.task_live SET enqueued_at = now() - interval '1 second'")
    await core.upkeep.reconcile()
    assert await core.pointers() == [(task_id, "work.builtin.p2")]
