"""What an outcome makes of a locked task: one pure function per trigger, each answering with a legal `Change`.

Three separate budgets keep poison out: attempts (the handler failed), losses (its workers died), and the broker's own
delivery limit, which is far above both because pointers are acknowledged at the claim.
"""

import json

from services.tasks.model.graph import Standing
from services.tasks.model.states import EventType, State, Transition
from services.tasks.model.task import Change, Live, RetryPolicy, TaskError
from services.tasks.model.work import Failure

MAX_LOST = 3

TIMEOUT = TaskError(code="TIMEOUT", message="The attempt took longer than its timeout")
DEADLINE = TaskError(code="DEADLINE_EXCEEDED", message="The deadline of the task passed")
CANCELLED = TaskError(code="CANCELLED", message="The task was cancelled")
DEPENDENCY_FAILED = TaskError(code="DEPENDENCY_FAILED", message="A task that it runs after did not succeed")
WORKER_LOST = TaskError(code="WORKER_LOST", message="The workers of the task died")


def backoff_seconds(policy: RetryPolicy, attempt: int, chance: float) -> float:
    """The wait after failed attempt number `attempt` (from 1).

    Args:
        chance: a random number in [0, 1), for the part of the wait that is random: many tasks that failed together
            shall not come back together.
    """
    # Ten to the power of 300 is more than any bound, and still a float.
    full = min(policy.max_seconds, policy.base_seconds * policy.factor ** min(attempt - 1, 300))
    return full * (1 - policy.jitter * (1 - chance))


def complete(live: Live, result: bytes) -> Change:
    """T4. A result counts even when somebody asked the task to stop meanwhile: it came first."""
    return Change(live=live, to=State.SUCCEEDED, by=Transition.COMPLETE, event=EventType.SUCCEEDED, result=result)


def fail(live: Live, failure: Failure, policy: RetryPolicy, chance: float) -> Change:
    """T5, T6, T7 or T11: another attempt, or the end."""
    if live.cancel_asked:
        return stop(live)
    if not failure.retryable:
        return _end(live, State.FAILED, Transition.FAIL, failure.error)
    if live.attempt >= live.max_attempts:
        return _end(live, State.DEAD, Transition.EXHAUST, failure.error)
    delay = max(backoff_seconds(policy, live.attempt, chance), failure.retry_after_seconds)
    return Change(
        live=live,
        to=State.SCHEDULED,
        by=Transition.RETRY,
        event=EventType.RETRYING,
        data=_data(error=failure.error, retry_in_seconds=round(delay, 3)),
        lost=live.lost,
        max_attempts=live.max_attempts,
        delay_seconds=delay,
    )


def give_back(live: Live) -> Change:
    """T8 by a worker that is going: queued again, and the attempt does not count. T11 when it was to stop anyway."""
    return stop(live) if live.cancel_asked else _queue_again(live, live.lost, "HANDED_BACK")


def lose(live: Live) -> Change:
    """T8, T7 or T11 by the sweeper: the session that held it is dead."""
    if live.cancel_asked:
        return stop(live)
    if live.lost + 1 >= MAX_LOST:
        return _end(live, State.DEAD, Transition.EXHAUST, WORKER_LOST)
    return _queue_again(live, live.lost + 1, "WORKER_LOST")


def stop(live: Live) -> Change:
    """T11: the worker stopped, died, or had its grace."""
    return _end(live, State.CANCELLED, Transition.STOP, CANCELLED)


def cancel(live: Live) -> Change:
    """T9 for a task that waits, T10 for one that runs."""
    if live.state is not State.RUNNING:
        return _end(live, State.CANCELLED, Transition.CANCEL_WAITING, CANCELLED)
    return Change(live=live, to=State.RUNNING, by=Transition.ASK_TO_STOP, event=None)


def release(live: Live, standing: Standing | None) -> Change | None:
    """T2 when its time has come and what it runs after has ended well, T9 when that never will; else nothing."""
    if standing is not None:
        if _in_vain(standing):
            return _end(live, State.CANCELLED, Transition.CANCEL_WAITING, DEPENDENCY_FAILED)
        wanted = 1 if standing.join_any else standing.named
        if standing.succeeded < wanted or (live.run_at is not None and live.run_at > live.now):
            return None
    return Change(
        live=live,
        to=State.QUEUED,
        by=Transition.RELEASE,
        event=EventType.QUEUED,
        data=_data() if standing is None else _data(reason="PREREQUISITES_MET"),
        lost=live.lost,
        max_attempts=live.max_attempts,
    )


def requeue(live: Live, attempts: int) -> Change | None:
    """T13 for one that ended badly; None for the other ends."""
    if live.state not in {State.FAILED, State.DEAD, State.CANCELLED}:
        return None
    return Change(
        live=live,
        to=State.QUEUED,
        by=Transition.REQUEUE,
        event=EventType.QUEUED,
        data=_data(reason="REQUEUED"),
        max_attempts=live.attempt + attempts,
    )


def expire(live: Live) -> Change:
    """T12: its deadline passed."""
    if live.state is State.RUNNING:
        return _end(live, State.FAILED, Transition.EXPIRE, TIMEOUT)
    return _end(live, State.EXPIRED, Transition.EXPIRE, DEADLINE)


def time_out(live: Live, policy: RetryPolicy, chance: float) -> Change:
    """The backstop for a worker that beats but does not end an attempt in its time: as a retryable failure."""
    return fail(live, Failure(error=TIMEOUT, retryable=True), policy, chance)


def _in_vain(standing: Standing) -> bool:
    return standing.failed == standing.named if standing.join_any else standing.failed > 0


_ENDS = {
    State.FAILED: EventType.FAILED,
    State.DEAD: EventType.DEAD,
    State.CANCELLED: EventType.CANCELLED,
    State.EXPIRED: EventType.EXPIRED,
}


def _end(live: Live, to: State, by: Transition, error: TaskError) -> Change:
    return Change(live=live, to=to, by=by, event=_ENDS[to], data=_data(error=error), error=error)


def _queue_again(live: Live, lost: int, reason: str) -> Change:
    return Change(
        live=live,
        to=State.QUEUED,
        by=Transition.GIVE_BACK,
        event=EventType.QUEUED,
        data=_data(reason=reason),
        lost=lost,
        # The attempt number is a fencing token and only grows; the budget grows with it instead.
        max_attempts=live.max_attempts + 1,
    )


def _data(**values: object) -> bytes:
    plain = {
        name: {"code": value.code, "message": value.message} if isinstance(value, TaskError) else value
        for name, value in values.items()
    }
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()
