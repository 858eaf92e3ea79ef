"""Model and contract say the same, in both directions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mesh.tasks.v1 import events_pb2, tasks_pb2

from chassis.errors import Invalid
from services.tasks.model.cron import Misfire
from services.tasks.model.states import Join, Priority, State
from services.tasks.model.task import RetryPolicy, Task, TaskError
from services.tasks.model.work import Outcome, WaitingPointer
from services.tasks.wire import tasks as wire
from services.tasks.wire.messages import news_messages, pointers_message
from services.tasks.wire.workers import opening_from, outcomes_from

AT = datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)


def test_states_and_priorities_have_the_contract_numbers() -> None:
    """The model's numbers travel as they are."""
    assert {f"STATE_{state.name}": state.value for state in State} | {"STATE_UNSPECIFIED": 0} == dict(
        tasks_pb2.State.items()
    )
    assert {f"JOIN_{one.name}": one.value for one in Join} | {"JOIN_UNSPECIFIED": 0} == dict(tasks_pb2.Join.items())
    assert {f"MISFIRE_{one.name}": one.value for one in Misfire} | {"MISFIRE_UNSPECIFIED": 0} == dict(
        tasks_pb2.Misfire.items()
    )
    assert {f"PRIORITY_{one.name}": one.value for one in Priority} | {"PRIORITY_UNSPECIFIED": 0} == dict(
        tasks_pb2.Priority.items()
    )


def test_a_draft_takes_everything_over() -> None:
    """Also times, to the microsecond; what is not set stays empty."""
    request = tasks_pb2.SubmitRequest(
        kind="k", payload=b"1", owner_id="o", priority=tasks_pb2.PRIORITY_HIGH, max_attempts=2, labels=b"{}"
    )
    request.run_at.FromDatetime(AT)
    draft = wire.draft_from(request, "00-trace")
    assert (draft.kind, draft.payload, draft.owner_id, draft.priority) == ("k", b"1", "o", 3)
    assert (draft.max_attempts, draft.run_at, draft.deadline_at, draft.labels) == (2, AT, None, b"{}")
    assert draft.traceparent == "00-trace"


def test_times_that_are_none_are_refused() -> None:
    """Out of the calendar, or with too many nanoseconds."""
    for seconds, nanos in ((10**12, 0), (-1, 0), (0, 10**9)):
        request = tasks_pb2.SubmitRequest(kind="k")
        request.deadline_at.seconds, request.deadline_at.nanos = seconds, nanos
        with pytest.raises(Invalid):
            wire.draft_from(request, "")


def test_a_task_is_shown_whole() -> None:
    """Every field arrives; absent times stay absent."""
    task = Task(
        task_id="task_1",
        kind="k",
        owner_id="o",
        priority=Priority.LOW,
        state=State.DEAD,
        attempt=3,
        max_attempts=3,
        payload=b"1",
        result=b"",
        error=TaskError(code="C", message="m"),
        progress=0.5,
        created_at=AT,
        started_at=AT,
        finished_at=None,
        run_at=None,
        traceparent="t",
        labels=b"{}",
        timeout_seconds=9,
        run_after=("task_0",),
        unique_key="u",
        deadline_at=AT,
    )
    shown = wire.to_task(task)
    assert (shown.state, shown.priority, shown.error.code, shown.progress) == (tasks_pb2.STATE_DEAD, 1, "C", 0.5)
    assert shown.created_at.ToDatetime(UTC) == AT
    assert shown.HasField("started_at")
    assert not shown.HasField("finished_at")
    assert (list(shown.run_after), shown.join, shown.unique_key) == (["task_0"], tasks_pb2.JOIN_ALL, "u")
    assert (shown.timeout_seconds, shown.deadline_at.ToDatetime(UTC)) == (9, AT)


def test_a_kind_without_a_policy_gets_the_default_one() -> None:
    """What is given counts as a whole, also its zeros."""
    request = tasks_pb2.OpenSessionRequest(kinds=[tasks_pb2.KindSpec(kind="a"), tasks_pb2.KindSpec(kind="b")])
    request.kinds[1].retry.base_seconds = 2
    first, second = opening_from(request).kinds
    assert first.retry == RetryPolicy()
    assert second.retry == RetryPolicy(base_seconds=2, factor=0, max_seconds=0, jitter=0)


def test_outcomes_are_told_apart() -> None:
    """A result may be empty text of JSON; neither result nor failure means stopped; nothing at all is an error."""
    request = tasks_pb2.FinishRequest(session_id="s")
    request.outcomes.add(task_id="a", attempt=1, result=b"null")
    request.outcomes.add(task_id="b", attempt=2, cancelled=True)
    failed = request.outcomes.add(task_id="c", attempt=3)
    failed.failure.CopyFrom(tasks_pb2.Failure(retryable=True, retry_after_ms=1500))
    first, second, third = outcomes_from(request).outcomes
    assert first == Outcome(task_id="a", attempt=1, result=b"null")
    assert second == Outcome(task_id="b", attempt=2)
    assert third.failure is not None
    assert (third.failure.retryable, third.failure.retry_after_seconds) == (True, 1.5)
    request.outcomes.add(task_id="d")
    with pytest.raises(Invalid):
        outcomes_from(request)


def test_unknown_states_in_a_filter_are_refused() -> None:
    """An open enum brings any number."""
    assert wire.states_from([2, 3]) == [State.QUEUED, State.RUNNING]
    for number in (0, 9):
        with pytest.raises(Invalid):
            wire.states_from([number])


def test_a_requeued_task_is_news_and_work() -> None:
    """One pointer at its class's queue and one event, whose ids tell repetitions from news."""
    message = pointers_message([waiting("task_1")])
    assert (message.exchange, message.routing_key) == ("mesh.work", "work.builtin.p0")
    (pointer,) = tasks_pb2.Pointers.FromString(message.body).pointers
    assert pointer == tasks_pb2.Pointer(task_id="task_1", attempt=1)
    (event,) = news_messages(news("queued", 1) | {"data": [b'{"reason":"WORKER_LOST"}']})
    (changed,) = events_pb2.TasksChanged.FromString(event.body).changes
    assert (event.exchange, event.routing_key) == ("mesh.events", f"tasks.task.queued.{changed.kind}")
    assert (event.id, event.subject, event.sequence) == ("task_0#3", "task_0", 3)
    assert (changed.type, changed.sequence, changed.data) == ("queued", 3, b'{"reason":"WORKER_LOST"}')


def test_pointers_of_one_queue_travel_in_one_message() -> None:
    """In their order; what is about one task alone is said of one alone."""
    one, two = pointers_message([waiting("task_1")]), pointers_message([waiting("task_1"), waiting("task_2")])
    assert [one.task_id for one in tasks_pb2.Pointers.FromString(two.body).pointers] == ["task_1", "task_2"]
    assert (one.subject, one.traceparent) == ("task_1", "parent")
    assert (two.subject, two.traceparent) == ("", "")


def waiting(task_id: str) -> WaitingPointer:
    """A pointer to the second attempt of a task."""
    return WaitingPointer(
        lane="",
        group="builtin",
        priority=Priority.CRITICAL,
        owner_id="ann",
        seq=1,
        task_id=task_id,
        attempt=1,
        traceparent="parent",
        at=AT,
    )


def news(type_: str, tasks: int) -> dict[str, Any]:
    """A row of the news."""
    return {
        "type": type_,
        "kind": "automation",
        "task_ids": [f"task_{number}" for number in range(tasks)],
        "owner_ids": ["ann"] * tasks,
        "sequences": [3] * tasks,
        "attempts": [1] * tasks,
        "ats": [AT] * tasks,
        "labels": [b""] * tasks,
        "traceparents": [""] * tasks,
        "data": None,
        "results": None,
    }


def test_a_result_travels_with_the_news_of_success() -> None:
    """Whoever waits for it needs to ask nobody."""
    (event,) = news_messages(news("succeeded", 1) | {"results": [b'{"a":1}']})
    (changed,) = events_pb2.TasksChanged.FromString(event.body).changes
    assert event.routing_key == "tasks.task.succeeded.automation"
    assert (changed.result, changed.data) == (b'{"a":1}', b"{}")


def test_news_of_a_commit_travel_together() -> None:
    """In one message, which is about no single task."""
    (event,) = news_messages(news("started", 3))
    changes = events_pb2.TasksChanged.FromString(event.body).changes
    assert [one.task_id for one in changes] == ["task_0", "task_1", "task_2"]
    assert (event.id, event.subject, event.sequence) == ("task_0#3", "", 0)


def test_each_event_of_the_news_says_its_own() -> None:
    """What events of a row have in common is made once; all that differs belongs to one of them alone."""
    columns: dict[str, list[Any]] = {
        "task_ids": ["task_1", "task_2", "task_3"],
        "owner_ids": ["ann", "bob", "cleo"],
        "sequences": [3, 4, 5],
        "attempts": [1, 0, 2],
        "ats": [AT, AT + timedelta(microseconds=1), AT],
        "data": [b"{}", b'{"a":1}', b"{}"],
        "results": [b"1", b"", b"3"],
        "labels": [b'{"b":2}', b"", b""],
        "traceparents": ["", "parent", ""],
    }
    (event,) = news_messages(news("succeeded", 3) | columns)
    names = ["task_id", "owner_id", "sequence", "attempt", "at", "data", "result", "labels", "traceparent"]
    told = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    changes = [events_pb2.TaskChanged(**one, kind="automation", type="succeeded") for one in told]
    assert events_pb2.TasksChanged.FromString(event.body) == events_pb2.TasksChanged(changes=changes)


def test_what_all_events_of_a_row_share_is_read_once() -> None:
    """One moment for all of them, and no labels where none has any."""
    short = news("started", 2) | {"ats": [AT], "labels": None}
    assert [one.body for one in news_messages(short)] == [one.body for one in news_messages(news("started", 2))]


def test_large_news_travel_apart() -> None:
    """A message stays small, whatever the results of its tasks; none is left out."""
    result = b'"' + b"x" * 100_000 + b'"'
    messages = news_messages(news("succeeded", 5) | {"results": [result] * 5})
    told = [one.task_id for m in messages for one in events_pb2.TasksChanged.FromString(m.body).changes]
    assert (told, len(messages)) == ([f"task_{n}" for n in range(5)], 3)
    assert len({message.id for message in messages}) == 3
