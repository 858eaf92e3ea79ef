"""Acceptance on a real database: one commit, idempotency keys, bounds."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from chassis.errors import Conflict, Exhausted, Invalid, Unavailable
from deploy.local.stores.postgres import Postgres
from services.tasks.model.states import State
from services.tasks.model.task import Receipt
from tests.integration.tasks.core import Core, open_core

pytestmark = pytest.mark.postgres


async def test_an_accepted_task_can_be_read_and_has_its_pointer(core: Core) -> None:
    """Task, first event and both messages are there when the call returns."""
    receipt = await core.submit(priority=4, labels=b'{"title":"x"}', traceparent="00-a")
    task = receipt.accepted.task
    read = await core.queries.get(task.task_id, "ann")
    assert read == task
    assert (read.state, read.attempt, read.max_attempts, read.traceparent) == (State.QUEUED, 0, 3, "00-a")
    assert await core.event_types(task.task_id) == ["queued"]
    assert await core.pointers() == [(task.task_id, "work.builtin.p0")]
    assert (receipt.queue_position, receipt.estimated_seconds) == (1, 0.0)


async def test_concurrent_submissions_share_commits(core: Core) -> None:
    """Hundreds of calls at once all become durable, each with its own id."""
    receipts = await asyncio.gather(*(core.submit() for _ in range(500)))
    assert len({receipt.accepted.task.task_id for receipt in receipts}) == 500
    assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 500
    assert (await core.sql("SELECT count(DISTINCT xmin::text) FROM tasks.task"))[0][0] < 50


async def test_one_key_makes_one_task_however_many_race(core: Core, tasks_url: str) -> None:
    """64 equal requests through two processes get the same task, and one of them made it."""
    async with open_core(tasks_url) as other:
        calls = [process.submit(idempotency_key="k") for process in (core, other) for _ in range(32)]
        receipts = await asyncio.gather(*calls)
    assert len({receipt.accepted.task.task_id for receipt in receipts}) == 1
    assert [receipt.accepted.replayed for receipt in receipts].count(False) == 1
    assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 1


async def test_a_replay_shows_the_task_as_it_is_now(core: Core) -> None:
    """A repeated request after the end returns the ended task."""
    task_id = await core.submit_id(idempotency_key="k")
    await core.queries.cancel(task_id, "ann")
    again = await core.submit(idempotency_key="k")
    assert (again.accepted.task.task_id, again.accepted.task.state) == (task_id, State.CANCELLED)


async def test_a_repeated_request_is_answered_as_the_first_time(core: Core, tasks_url: str) -> None:
    """By every process, also when both answer at once and when there is more to wait for by now."""
    async with open_core(tasks_url) as other:
        first, beside = await asyncio.gather(*(each.submit(idempotency_key="k") for each in (core, other)))
        await core.submit()
        again = [await each.submit(idempotency_key="k") for each in (core, other)]
    answers = {(one.queue_position, one.estimated_seconds, one.estimated_at) for one in (first, beside, *again)}
    assert len(answers) == 1
    assert (await core.submit()).queue_position > first.queue_position


async def test_what_was_a_duplicate_is_one_when_it_is_asked_again(core: Core) -> None:
    """The first answer stands; a key whose time is over begins anew."""
    task_id = await core.submit_id(unique_key="u")
    told = [(await core.submit(unique_key="u", idempotency_key="k")).accepted for _ in range(2)]
    assert [(each.task.task_id, each.duplicate) for each in told] == [(task_id, True)] * 2
    await core.sql("UPDATE tasks.idem SET expires_at = now()")
    fresh = await core.submit(idempotency_key="k")
    assert (fresh.accepted.replayed, fresh.accepted.duplicate) == (False, False)


async def test_a_key_belongs_to_its_owner_and_its_request(core: Core) -> None:
    """Another owner has keys of their own; another payload is a conflict, also in one batch."""
    first = await core.submit_id(idempotency_key="k")
    assert await core.submit_id(idempotency_key="k", owner_id="bob") != first
    with pytest.raises(Conflict) as caught:
        await core.submit(idempotency_key="k", payload=b"{}")
    assert caught.value.code == "IDEMPOTENCY_MISMATCH"
    both = await asyncio.gather(
        core.submit(idempotency_key="n", payload=b"1"),
        core.submit(idempotency_key="n", payload=b"2"),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in both) == ["Conflict", "Receipt"]


async def test_an_expired_key_is_free_again(core: Core) -> None:
    """After its time a key makes a new task."""
    first = await core.submit_id(idempotency_key="k")
    await core.sql("UPDATE tasks.idem SET expires_at = now()")
    assert await core.submit_id(idempotency_key="k", payload=b"[]") != first


async def test_an_unknown_kind_is_refused_with_the_known_list(core: Core) -> None:
    """Nothing is stored, and the caller learns what there is."""
    with pytest.raises(Invalid) as caught:
        await core.submit(kind="nobody.knows")
    assert caught.value.code == "UNKNOWN_KIND"
    assert caught.value.details["known"] == "agent.run, automation, sentiment_analysis"
    assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 0


async def test_a_full_queue_refuses_before_writing(tasks_url: str) -> None:
    """Exactly as many as the bound are accepted, and the refusal says when to come back."""
    async with open_core(tasks_url, most_queued=3) as core:
        for _ in range(3):
            await core.submit()
        with pytest.raises(Exhausted) as caught:
            await core.submit()
        assert (caught.value.code, caught.value.retry_after_seconds) == ("QUEUE_FULL", 1.0)
        await core.upkeep.refresh()
        with pytest.raises(Exhausted):
            await core.submit()
        assert (await core.sql("SELECT count(*) FROM tasks.task"))[0][0] == 3


async def test_several_processes_keep_a_bound_exactly(tasks_url: str) -> None:
    """Two of them and eighty submissions at once for fifty places: fifty are in, of the others nothing is stored."""
    async with open_core(tasks_url, most_queued=50) as one, open_core(tasks_url, most_queued=50) as other:
        calls = [
            core.submit(idempotency_key=f"{n}", owner_id=o) for n in range(40) for core, o in ((one, "a"), (other, "b"))
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers].count(Receipt) == 50
        assert [type(answer) for answer in answers].count(Exhausted) == 30
        for table in ("task", "task_live", "idem", "pointer"):
            assert (await one.sql(f"SELECT count(*) FROM tasks.{table}"))[0][0] == 50


async def test_without_the_database_callers_hear_it_and_later_ones_succeed(
    core: Core, postgres_server: Postgres
) -> None:
    """All who wait for the commit get the same error, with a time to come back; nothing else is needed afterwards."""
    await core.submit()
    await asyncio.to_thread(postgres_server.kill)
    answers = await asyncio.gather(*(core.submit() for _ in range(5)), return_exceptions=True)
    assert {getattr(answer, "code", "") for answer in answers} == {"DATABASE_ERROR"}
    assert all(isinstance(answer, Unavailable) and answer.retry_after_seconds for answer in answers)
    await asyncio.to_thread(postgres_server.heal)
    assert (await core.submit()).accepted.task.state is State.QUEUED


async def test_a_later_start_waits_for_its_time(core: Core) -> None:
    """It has no pointer until the timer releases it."""
    at = datetime.now(UTC) + timedelta(hours=1)
    task_id = await core.submit_id(run_at=at)
    assert (await core.queries.get(task_id, "")).state is State.SCHEDULED
    assert await core.pointers() == []
    await core.upkeep.release()
    assert await core.pointers() == []
    await core.sql("UPDATE tasks.schedule SET due_at = now()")
    await core.upkeep.release()
    assert (await core.queries.get(task_id, "")).state is State.QUEUED
    assert await core.pointers() == [(task_id, "work.builtin.p2")]
