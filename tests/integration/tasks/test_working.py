"""Claims, outcomes and progress on a real database: one winner, and nothing from a fenced attempt."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import orjson
import pytest

from chassis.errors import Conflict, Exhausted, NotFound
from services.tasks.model.states import State
from services.tasks.model.task import RetryPolicy
from services.tasks.model.work import Opening, Outcome, Pointer
from services.tasks.operations import desk as desk_module
from tests.integration.tasks.core import KIND, Core, failure, open_core, success

pytestmark = pytest.mark.postgres


async def test_a_pointer_is_claimed_once_however_many_race(core: Core, tasks_url: str) -> None:
    """Sixteen sessions in two processes claim the same tasks; each goes to exactly one."""
    task_ids = [await core.submit_id() for _ in range(20)]
    async with open_core(tasks_url) as other:
        processes = [core, other] * 8
        sessions = [await process.open_session() for process in processes]
        answers = await asyncio.gather(
            *(process.claim(session, *task_ids) for process, session in zip(processes, sessions, strict=True))
        )
    claimed = [one.task_id for answer in answers for one in answer]
    assert sorted(claimed) == sorted(task_ids)
    assert {one.attempt for answer in answers for one in answer} == {1}


async def test_a_repeated_claim_gets_the_same_answer(core: Core) -> None:
    """A session that did not hear the answer asks again; nothing is started twice."""
    session = await core.open_session()
    task_id = await core.submit_id(payload=b"[1]")
    first = await core.claim(session, task_id)
    assert await core.claim(session, task_id) == first
    assert (first[0].payload, first[0].attempt, first[0].max_attempts) == (b"[1]", 1, 3)
    assert await core.event_types(task_id) == ["queued", "started"]


async def test_stale_and_foreign_pointers_claim_nothing(core: Core) -> None:
    """Wrong attempts and unknown tasks are missing in the answer and shadow nothing."""
    session = await core.open_session()
    task_id = await core.submit_id()
    assert await core.claim(session, task_id, attempt=5) == ()
    assert await core.claim(session, "task_0000000000000000000000000A") == ()
    both = await asyncio.gather(core.claim(session, task_id, attempt=7), core.claim(session, task_id))
    assert [len(answer) for answer in both] == [0, 1]


async def test_only_a_live_session_may_claim(core: Core) -> None:
    """A lost one is told so, a draining one too, and neither stands in the way of a batch."""
    lost, draining, live = [await core.open_session() for _ in range(3)]
    await core.lose(lost)
    await core.desk.close_session(draining, drain=True)
    task_id = await core.submit_id()
    answers: list[Any] = await asyncio.gather(
        *(core.claim(session, task_id) for session in (lost, draining, live)), return_exceptions=True
    )
    assert isinstance(answers[0], NotFound)
    assert answers[0].code == "SESSION_LOST"
    assert isinstance(answers[1], Conflict)
    assert [one.task_id for one in answers[2]] == [task_id]


async def test_a_result_is_kept_and_announced(core: Core) -> None:
    """The task, its feed and the bus say the same."""
    session = await core.open_session()
    task_id = await core.run(session)
    assert await core.finish(session, success(task_id)) == []
    task: Any = await core.queries.get(task_id, "ann")
    assert (task.state, task.result, task.progress) == (State.SUCCEEDED, b'{"ok":true}', 1.0)
    assert task.finished_at >= task.started_at >= task.created_at
    assert await core.event_types(task_id) == ["queued", "started", "succeeded"]
    assert await core.sql("SELECT type, task_ids, sequences FROM tasks.news ORDER BY seq") == [
        ("queued", [task_id], [1]),
        ("started", [task_id], [2]),
        ("succeeded", [task_id], [3]),
    ]


async def test_foreign_and_older_results_are_stale_and_change_nothing(core: Core) -> None:
    """Also when they say what the session that held the attempt has said; its own repetition is no fault."""
    session, other = await core.open_session(), await core.open_session()
    task_id = await core.run(session)
    assert await core.finish(other, success(task_id, result=b'"foreign"')) == [Pointer(task_id=task_id, attempt=1)]
    assert await core.finish(session, success(task_id, attempt=2)) == [Pointer(task_id=task_id, attempt=2)]
    assert await core.finish(session, success(task_id)) == []
    assert await core.finish(other, success(task_id)) == [Pointer(task_id=task_id, attempt=1)]
    assert await core.finish(session, success(task_id, result=b'"again"')) == []
    assert (await core.queries.get(task_id, "")).result == b'{"ok":true}'


async def test_whatever_ended_an_attempt_may_be_said_again(core: Core, tasks_url: str) -> None:
    """To another process, by the session that held it: a failure for good, one that is tried again, an awaited result,
    and a stop that was asked for.
    """
    session, other = await core.open_session(), await core.open_session()
    dead, tried, awaited, stopped = [await core.run(session) for _ in range(4)]
    await core.submit_id(run_after=(awaited,))
    await core.queries.cancel(stopped, "ann")
    outcomes = [failure(dead, retryable=False), failure(tried), success(awaited), Outcome(task_id=stopped, attempt=1)]
    assert await core.finish(session, *outcomes) == []
    feeds = [await core.event_types(task_id) for task_id in (dead, tried, awaited, stopped)]
    async with open_core(tasks_url) as again:
        assert await again.finish(session, *outcomes) == []
        assert len(await again.finish(other, *outcomes)) == len(outcomes)
    assert [await core.event_types(task_id) for task_id in (dead, tried, awaited, stopped)] == feeds


async def test_what_ended_without_a_report_cannot_be_reported(core: Core) -> None:
    """A lost lease, attempts that were handed back, and a failure after which another attempt has begun."""
    session, other = await core.open_session(), await core.open_session()
    lost, back, older = await core.run(other), await core.run(session), await core.run(session)
    await core.finish(session, failure(older))
    await core.sql("UPDATE tasks.schedule SET due_at = now()")
    await core.upkeep.release()
    assert await core.claim(session, older, attempt=1)
    await core.desk.hand_back(session, [Pointer(task_id=back, attempt=1)])
    await core.lose(other)
    await core.upkeep.sweep()
    assert await core.finish(session, failure(back), failure(older)) == [
        Pointer(task_id=task_id, attempt=1) for task_id in (back, older)
    ]
    assert await core.finish(other, failure(lost)) == [Pointer(task_id=lost, attempt=1)]


async def test_failures_are_tried_again_until_the_budget_is_used(core: Core) -> None:
    """Three attempts, each fenced by its number, then a dead letter."""
    session = await core.open_session()
    task_id = await core.run(session)
    for attempt in (1, 2):
        await core.finish(session, failure(task_id, attempt))
        assert (await core.queries.get(task_id, "")).state is State.SCHEDULED
        await core.sql("UPDATE tasks.schedule SET due_at = now()")
        await core.upkeep.release()
        assert [one.attempt for one in await core.claim(session, task_id, attempt=attempt)] == [attempt + 1]
    await core.finish(session, failure(task_id, 3))
    task: Any = await core.queries.get(task_id, "")
    assert (task.state, task.attempt, task.error.code) == (State.DEAD, 3, "HANDLER_ERROR")
    assert (await core.event_types(task_id))[-3:] == ["queued", "started", "dead"]
    assert [tuple(row) for row in await core.sql("SELECT task_id, attempt FROM tasks.dead_letter")] == [(task_id, 3)]


async def test_a_permanent_failure_ends_at_once(core: Core) -> None:
    """No retry, no dead letter."""
    session = await core.open_session()
    task_id = await core.run(session)
    await core.finish(session, failure(task_id, retryable=False))
    assert (await core.queries.get(task_id, "")).state is State.FAILED
    assert await core.sql("SELECT 1 FROM tasks.dead_letter") == []


async def test_a_result_that_is_no_json_fails_the_task_alone(core: Core) -> None:
    """One bad result in a call does not hold up the others."""
    session = await core.open_session()
    good, bad = await core.run(session), await core.run(session)
    await core.finish(session, success(bad, result=b"{nonsense"), success(good))
    task: Any = await core.queries.get(bad, "")
    assert (task.state, task.error.code) == (State.FAILED, "INVALID_RESULT")
    assert (await core.queries.get(good, "")).state is State.SUCCEEDED


async def test_handed_back_attempts_do_not_count(core: Core) -> None:
    """They are queued at once with one attempt more to spend; closing a session hands back what it holds."""
    session, other = await core.open_session(), await core.open_session()
    first, second = await core.run(session), await core.run(session)
    await core.desk.hand_back(session, [Pointer(task_id=first, attempt=1)])
    await core.desk.close_session(session, drain=False)
    claimed = await core.claim(other, first, second, attempt=1)
    assert sorted((one.task_id, one.attempt, one.max_attempts) for one in claimed) == sorted(
        [(first, 2, 4), (second, 2, 4)]
    )
    assert await core.finish(session, success(first)) == [Pointer(task_id=first, attempt=1)]


async def test_progress_makes_an_event_a_second_at_most(core: Core) -> None:
    """The figure is always kept; the feed does not drown."""
    session = await core.open_session()
    task_id = await core.run(session)
    began = time.monotonic()
    held = [
        await core.desk.progress(session, Pointer(task_id=task_id, attempt=1), value, message="on the way")
        for value in (0.1, 0.2, 0.3)
    ]
    took_seconds = int(time.monotonic() - began)
    assert held == [True, True, True]
    assert (await core.queries.get(task_id, "")).progress == 0.3
    told = await core.event_types(task_id)
    assert told[:3] == ["queued", "started", "progress"]
    # One, but on a machine that took seconds for the three.
    assert len(told) - 3 <= took_seconds
    assert not await core.desk.progress(session, Pointer(task_id=task_id, attempt=2), 0.5)


async def test_a_heartbeat_says_what_is_held_and_what_to_stop(core: Core) -> None:
    """Held attempts come back, cancelled ones are marked, and a lost session learns that it is."""
    session = await core.open_session()
    task_id = await core.run(session)
    assert [(one.task_id, one.attempt, one.cancel_asked) for one in await core.desk.beat(session)] == [
        (task_id, 1, False)
    ]
    await core.queries.cancel(task_id, "ann")
    assert [one.cancel_asked for one in await core.desk.beat(session)] == [True]
    await core.finish(session, Outcome(task_id=task_id, attempt=1))
    assert (await core.queries.get(task_id, "")).state is State.CANCELLED
    await core.lose(session)
    with pytest.raises(NotFound) as caught:
        await core.desk.beat(session)
    assert caught.value.code == "SESSION_LOST"


async def test_a_kind_says_how_it_is_retried(core: Core) -> None:
    """Its own wait, without chance, and not the default one."""
    policy = RetryPolicy(base_seconds=100.0, factor=3.0, max_seconds=250.0, jitter=0.0)
    opening = Opening(session_id="", worker_name="w", host="", kinds=(replace(KIND, retry=policy),), slots=1)
    session = await core.keep(await core.desk.open_session(opening))
    task_id = await core.run(session)
    for attempt, wait in ((1, 100.0), (2, 250.0)):
        await core.finish(session, failure(task_id, attempt=attempt))
        events = await core.queries.list_events(task_id, "", 0, 0)
        assert orjson.loads(events[-1].data)["retry_in_seconds"] == wait
        await core.sql("UPDATE tasks.schedule SET due_at = now()")
        await core.upkeep.release()
        assert await core.claim(session, task_id, attempt=attempt)


async def test_kinds_are_bounded(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """New kinds are refused where too many are known already; known ones are announced as before."""
    await core.open_session()
    monkeypatch.setattr(desk_module, "MOST_KNOWN_KINDS", len(core.figures.known_kinds))
    fresh = Opening(session_id="", worker_name="w", host="h", kinds=(replace(KIND, kind="another"),), slots=1)
    with pytest.raises(Exhausted) as refused:
        await core.desk.open_session(fresh)
    assert refused.value.code == "TOO_MANY_KINDS"
    assert "another" not in core.figures.known_kinds
    await core.open_session()
