"""What may happen to an execution, and that nothing else does."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Conflict
from services.agents.model import steps
from services.agents.model.agent import Figures, Measured
from services.agents.model.execution import Answer, EventType, Execution, ExecutionStatus, Run, RunStatus, Step
from services.agents.model.order import Order
from tests.unit.agents.fakes import NOW, agent, news

_ENDS = [RunStatus.SUCCESS, RunStatus.FAILED, RunStatus.TIMEOUT, RunStatus.CANCELLED]


def _order(*, parallel: bool = True) -> Order:
    return Order(owner_id="u", agent_ids=(), parallel=parallel, timeout_seconds=60, input="", idempotency_key="")


def _begin(count: int, *, parallel: bool = True) -> Step:
    measured = [Measured(agent=agent(f"a{number}"), figures=Figures()) for number in range(count)]
    ids = ["e", *(f"r{number}" for number in range(count))]
    return steps.begin(_order(parallel=parallel), measured, ids, NOW, "")


def _hear(execution: Execution, run: Run, status: RunStatus, **known: object) -> Step:
    return steps.hear(execution, news(execution, run, status, **known), NOW)


def test_all_turns_come_at_once_in_parallel_and_one_by_one_in_order():
    """The runs that are due are those to submit."""
    assert len(_begin(3).execution.due) == 3
    ordered = _begin(3, parallel=False).execution
    assert [run.id for run in ordered.due] == ["r0"]
    after = _hear(ordered, ordered.runs[0], RunStatus.FAILED).execution
    assert [run.id for run in after.due] == ["r1"]


def test_a_run_ends_once():
    """The first end counts; later ends, later starts and repeated news change nothing."""
    execution = _begin(2).execution
    step = _hear(execution, execution.runs[0], RunStatus.SUCCESS, answer=Answer(output="yes"))
    assert [event.type for event in step.events] == [EventType.RUN_FINISHED]
    for status in RunStatus:
        again = _hear(step.execution, step.execution.runs[0], status)
        assert (again.execution, again.events, again.finished) == (step.execution, (), ())


def test_news_of_others_changes_nothing():
    """Another owner's task, and another task than the one the run has."""
    execution = steps.submitted(_begin(1).execution, {"r0": "task_r0"}).execution
    for foreign in ({"owner_id": "v"}, {"task_id": "task_x"}, {"run_id": "r9"}):
        assert _hear(execution, execution.runs[0], RunStatus.SUCCESS, **foreign).execution == execution


def test_the_last_end_ends_the_execution():
    """Its event is the last one, and the sequence has no gap."""
    step = _begin(2)
    events = list(step.events)
    for number in range(2):
        step = _hear(step.execution, step.execution.runs[number], RunStatus.SUCCESS)
        events += step.events
    assert step.execution.status is ExecutionStatus.COMPLETED
    assert [event.type for event in events][-1] is EventType.FINISHED
    assert [event.sequence for event in events] == [1, 2, 3, 4]


@given(
    parallel=st.booleans(),
    heard=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(list(RunStatus))), max_size=30),
)
def test_any_order_of_news_keeps_the_books(parallel: bool, heard: list[tuple[int, RunStatus]]):
    """However news comes: events are gap-free, each run ends at most once, and the end comes exactly with the last."""
    step = _begin(3, parallel=parallel)
    events, finished = list(step.events), 0
    for number, status in heard:
        step = _hear(step.execution, step.execution.runs[number], status)
        events += step.events
        finished += len(step.finished)
    execution = step.execution
    assert (
        [event.sequence for event in events]
        == list(range(1, len(events) + 1))
        == list(range(1, execution.sequence + 1))
    )
    assert finished == sum(run.status.is_end for run in execution.runs)
    assert (execution.status is ExecutionStatus.STARTED) == (finished < 3)


@pytest.mark.parametrize("end", _ENDS)
def test_an_answer_is_kept_with_its_times(end: RunStatus):
    """Start and end give the duration; what was said is kept."""
    execution = _begin(1).execution
    started = _hear(execution, execution.runs[0], RunStatus.RUNNING).execution
    answer = Answer(output="yes", model="m", tokens=3)
    (run,) = _hear(started, started.runs[0], end, at=NOW + timedelta(seconds=2), answer=answer, error="why").finished
    assert (run.duration_ms, run.output, run.model, run.tokens, run.error) == (2000, "yes", "m", 3, "why")


def test_cancelling_ends_what_waits_and_spares_what_runs():
    """Runs without a task end at once; the execution ends as cancelled with the last one."""
    execution = steps.submitted(_begin(3, parallel=False).execution, {"r0": "task_r0"}).execution
    step = steps.cancel(execution, NOW)
    assert [run.status for run in step.execution.runs] == [RunStatus.PENDING, RunStatus.CANCELLED, RunStatus.CANCELLED]
    last = _hear(step.execution, step.execution.runs[0], RunStatus.CANCELLED)
    assert last.execution.status is ExecutionStatus.CANCELLED
    with pytest.raises(Conflict):
        steps.cancel(last.execution, NOW)


def test_a_refused_run_has_failed_and_the_next_has_its_turn():
    """The tasks service will never take it: that is its end."""
    step = steps.refuse(_begin(2, parallel=False).execution, "r0", "no", NOW)
    assert (step.execution.runs[0].status, step.execution.runs[0].error) == (RunStatus.FAILED, "no")
    assert [run.id for run in step.execution.due] == ["r1"]


def test_the_estimate_comes_from_measured_runs():
    """The longest mean in parallel, the sum in order, 0 when nothing is known."""
    figures = [
        Figures(runs=2, successful_runs=2, successful_ms=5000),
        Figures(runs=1, successful_runs=1, successful_ms=4000),
    ]
    assert steps.estimate(_order(), figures) == 4
    assert steps.estimate(_order(parallel=False), figures) == 7
    assert steps.estimate(_order(), [Figures()]) == 0
