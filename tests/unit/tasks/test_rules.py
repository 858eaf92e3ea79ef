"""What outcomes make of tasks: every rule answers with a transition of the table, and nothing else can be made."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tasks.model import rules
from services.tasks.model.graph import Standing
from services.tasks.model.states import TABLE, EventType, Priority, State, Transition
from services.tasks.model.task import Change, Live, RetryPolicy, TaskError, notice_of
from services.tasks.model.work import Failure

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEFAULT = RetryPolicy()
BROKE = TaskError(code="HANDLER_ERROR", message="it broke")


def live(**changes: Any) -> Live:
    values: dict[str, Any] = {
        "task_id": "task_1",
        "owner_id": "ann",
        "kind": "automation",
        "group": "builtin",
        "priority": Priority.NORMAL,
        "state": State.RUNNING,
        "attempt": 1,
        "max_attempts": 3,
        "lost": 0,
        "sequence": 2,
        "session_id": "ses_1",
        "cancel_asked": False,
        "started_at": NOW - timedelta(seconds=1),
        "labels": b"",
        "traceparent": "",
        "now": NOW,
        "created_at": NOW - timedelta(seconds=2),
    }
    return Live(**{**values, **changes})


def failure(*, retryable: bool = True, wait: float = 0.0) -> Failure:
    return Failure(error=BROKE, retryable=retryable, retry_after_seconds=wait)


@pytest.mark.parametrize(
    ("change", "to", "by"),
    [
        (rules.complete(live(), b"1"), State.SUCCEEDED, Transition.COMPLETE),
        (rules.complete(live(cancel_asked=True), b"1"), State.SUCCEEDED, Transition.COMPLETE),
        (rules.fail(live(), failure(), DEFAULT, 0.0), State.SCHEDULED, Transition.RETRY),
        (rules.fail(live(attempt=3), failure(), DEFAULT, 0.0), State.DEAD, Transition.EXHAUST),
        (rules.fail(live(), failure(retryable=False), DEFAULT, 0.0), State.FAILED, Transition.FAIL),
        (rules.fail(live(cancel_asked=True), failure(), DEFAULT, 0.0), State.CANCELLED, Transition.STOP),
        (rules.lose(live()), State.QUEUED, Transition.GIVE_BACK),
        (rules.lose(live(lost=2)), State.DEAD, Transition.EXHAUST),
        (rules.lose(live(cancel_asked=True)), State.CANCELLED, Transition.STOP),
        (rules.give_back(live()), State.QUEUED, Transition.GIVE_BACK),
        (rules.give_back(live(cancel_asked=True)), State.CANCELLED, Transition.STOP),
        (rules.cancel(live(state=State.QUEUED)), State.CANCELLED, Transition.CANCEL_WAITING),
        (rules.cancel(live(state=State.SCHEDULED)), State.CANCELLED, Transition.CANCEL_WAITING),
        (rules.cancel(live()), State.RUNNING, Transition.ASK_TO_STOP),
        (rules.release(live(state=State.SCHEDULED), None), State.QUEUED, Transition.RELEASE),
        (rules.expire(live(state=State.QUEUED)), State.EXPIRED, Transition.EXPIRE),
        (rules.expire(live()), State.FAILED, Transition.EXPIRE),
        (rules.time_out(live(), DEFAULT, 0.0), State.SCHEDULED, Transition.RETRY),
    ],
)
def test_each_outcome_has_its_transition(change: Change | None, to: State, by: Transition) -> None:
    """The table of the design, line by line."""
    assert change is not None
    assert (change.to, change.by) == (to, by)


def test_only_transitions_of_the_table_can_be_made() -> None:
    """All 8 x 8 x 13 combinations: legal ones are values, the others raise."""
    for by, legal in TABLE.items():
        for begin in State:
            for to in State:
                make: dict[str, Any] = {"live": live(state=begin), "to": to, "by": by, "event": None}
                if (begin, to) in legal:
                    assert Change(**make).to is to
                else:
                    with pytest.raises(ValueError, match="does not lead"):
                        Change(**make)


def test_ends_are_left_by_an_operator_alone() -> None:
    """Nothing but a requeue begins in an end."""
    leaving = {by for by, legal in TABLE.items() for begin, _ in legal if begin is not None and begin.is_end}
    assert leaving == {Transition.REQUEUE}


def test_lost_and_handed_back_attempts_do_not_use_the_budget() -> None:
    """The budget grows with them; only a loss counts as one."""
    lost, handed_back = rules.lose(live()), rules.give_back(live())
    assert (lost.max_attempts, lost.lost) == (4, 1)
    assert (handed_back.max_attempts, handed_back.lost) == (4, 0)


@given(
    attempt=st.integers(1, 100_000),
    chance=st.floats(0, 1, exclude_max=True),
    base=st.floats(0.001, 86_400),
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
)
def test_the_wait_grows_within_its_bounds(
    attempt: int, chance: float, base: float, factor: float, jitter: float
) -> None:
    """Never longer than the bound, never less than what is not random of its step."""
    policy = RetryPolicy(base_seconds=base, factor=factor, max_seconds=604_800.0, jitter=jitter)
    wait = rules.backoff_seconds(policy, attempt, chance)
    full = min(604_800.0, base * factor ** min(attempt - 1, 300))
    assert full * (1 - jitter) - 1e-6 <= wait <= full


def test_the_default_wait_doubles_from_a_second_up_to_five_minutes() -> None:
    """Half of each step is random."""
    waits = [rules.backoff_seconds(DEFAULT, attempt, 0.0) for attempt in (1, 2, 3, 9, 10, 50)]
    assert waits == [0.5, 1.0, 2.0, 128.0, 150.0, 150.0]


@pytest.mark.parametrize(
    ("join_any", "succeeded", "failed", "to"),
    [
        (False, 2, 0, State.QUEUED),
        (False, 1, 0, None),
        (False, 1, 1, State.CANCELLED),
        (False, 0, 1, State.CANCELLED),
        (True, 1, 0, State.QUEUED),
        (True, 1, 1, State.QUEUED),
        (True, 0, 1, None),
        (True, 0, 2, State.CANCELLED),
    ],
)
def test_a_task_starts_after_all_or_any_of_two_others(
    join_any: bool,
    succeeded: int,
    failed: int,
    to: State | None,
) -> None:
    """As soon as it may, and never when it cannot any more."""
    standing = Standing(join_any=join_any, named=2, succeeded=succeeded, failed=failed)
    change = rules.release(live(state=State.SCHEDULED, waits=True), standing)
    assert (change and change.to) == to
    assert change is None or change.error is None or change.error.code == "DEPENDENCY_FAILED"


def test_a_task_with_a_time_and_prerequisites_waits_for_both() -> None:
    """The last of them releases it."""
    standing = Standing(join_any=False, named=1, succeeded=1, failed=0)
    waiting = live(state=State.SCHEDULED, waits=True, run_at=NOW + timedelta(seconds=1))
    assert rules.release(waiting, standing) is None
    released = rules.release(live(state=State.SCHEDULED, waits=True, run_at=NOW), standing)
    assert released is not None
    assert json.loads(released.data) == {"reason": "PREREQUISITES_MET"}


def test_only_bad_ends_are_requeued() -> None:
    """With so many attempts more as are asked for."""
    for state in (State.FAILED, State.DEAD, State.CANCELLED):
        change = rules.requeue(live(state=state, attempt=4, session_id=None), 2)
        assert change is not None
        assert (change.to, change.by, change.max_attempts) == (State.QUEUED, Transition.REQUEUE, 6)
    for state in (State.SUCCEEDED, State.EXPIRED):
        assert rules.requeue(live(state=state), 1) is None


def test_a_worker_may_ask_for_a_longer_wait() -> None:
    """The longer of both holds, and the feed says how long."""
    change = rules.fail(live(), failure(wait=60.0), DEFAULT, 0.0)
    assert change.delay_seconds == 60.0
    assert json.loads(change.data) == {
        "error": {"code": "HANDLER_ERROR", "message": "it broke"},
        "retry_in_seconds": 60.0,
    }


def test_a_change_is_announced_with_the_next_number() -> None:
    """Its event follows the last one; what is queued asks for work at the attempt there was."""
    notice = notice_of(rules.lose(live()))
    assert (notice.type, notice.sequence, notice.attempt, notice.asks_for_work) == (EventType.QUEUED, 3, 1, True)
    ended = notice_of(rules.complete(live(), b"1"))
    assert (ended.type, ended.sequence, ended.asks_for_work) == (EventType.SUCCEEDED, 3, False)
