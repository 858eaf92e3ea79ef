"""What may happen to an execution: each function takes it as it stands under its lock and answers with a `Step`.

News may come twice, late or in any order: only a step forward has an effect, by the ranks below.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from chassis.errors import Conflict, NotFound
from services.agents.model.agent import Agent, Figures, Measured
from services.agents.model.execution import (
    Answer,
    Event,
    EventType,
    Execution,
    ExecutionStatus,
    News,
    Run,
    RunStatus,
    Step,
)
from services.agents.model.order import Order

# A run only moves up. A task that is retried stays RUNNING here.
_RANK = dict.fromkeys(RunStatus, 2) | {RunStatus.PENDING: 0, RunStatus.RUNNING: 1}


def begin(order: Order, agents: Sequence[Measured], ids: Sequence[str], now: datetime, traceparent: str) -> Step:
    """A new execution: its first turn is due at once. `ids`: its own and one for each agent."""
    deadline = now + timedelta(seconds=order.timeout_seconds)
    runs = tuple(
        _new_run(
            one.agent,
            id=run_id,
            execution_id=ids[0],
            position=position,
            created_at=now,
            deadline_at=deadline if order.parallel or position == 0 else None,
        )
        for position, (one, run_id) in enumerate(zip(agents, ids[1:], strict=True))
    )
    execution = Execution(
        id=ids[0],
        order=order,
        status=ExecutionStatus.STARTED,
        started_at=now,
        finished_at=None,
        cancelled_at=None,
        estimated_seconds=estimate(order, [one.figures for one in agents]),
        sequence=1,
        traceparent=traceparent,
        runs=runs,
    )
    return Step(execution=execution, events=(_event(EventType.STARTED, execution, now),))


def estimate(order: Order, figures: Sequence[Figures]) -> int:
    """Seconds until it should have ended, from measured runs: the longest one or the sum; unknown ones count 0."""
    means = [one.mean_seconds for one in figures]
    return math.ceil(max(means, default=0.0) if order.parallel else sum(means))


def submitted(execution: Execution, accepted: Mapping[str, str]) -> Step:
    """The tasks service has accepted runs: their tasks by run. Also noted on runs that ended meanwhile."""
    for run in execution.runs:
        if run.id in accepted and not run.task_id:
            execution = _with_run(execution, replace(run, task_id=accepted[run.id]))
    return Step(execution=execution)


def concerned(execution: Execution, news: News) -> Run | None:
    """The run that news is about; None when it is another owner's task, or another than the run's."""
    run = next((run for run in execution.runs if run.id == news.run_id), None)
    if run is None or news.owner_id != execution.order.owner_id or run.task_id not in {"", news.task_id}:
        return None
    return run


def lacks_start(run: Run, news: News) -> bool:
    """Whether news of an end has overtaken that of the start, so that the task itself has to be asked."""
    is_new_end = news.status.is_end and not run.status.is_end
    return is_new_end and not news.is_whole and run.started_at is None and news.started_at is None


def hear(execution: Execution, news: News, now: datetime) -> Step:
    """What news of a task changes: nothing when it is old, foreign or known already."""
    run = concerned(execution, news)
    if run is None or lacks_start(run, news):
        return Step(execution=execution)
    heard = replace(run, task_id=news.task_id)
    if _RANK[news.status] <= _RANK[run.status]:
        return Step(execution=execution if run.status.is_end else _with_run(execution, heard))
    if news.status is RunStatus.RUNNING:
        return Step(execution=_with_run(execution, replace(heard, status=news.status, started_at=news.at)))
    answer = news.answer or Answer(output="")
    ended = replace(
        heard,
        status=news.status,
        started_at=heard.started_at or news.started_at,
        finished_at=news.at,
        output=answer.output,
        model=answer.model,
        tokens=answer.tokens,
        error=news.error,
    )
    return _end(execution, (ended,), now)


def refuse(execution: Execution, run_id: str, error: str, now: datetime) -> Step:
    """The tasks service will never accept a run: it has failed."""
    run = _find(execution, run_id)
    if run.status.is_end or run.task_id:
        return Step(execution=execution)
    return _end(execution, (replace(run, status=RunStatus.FAILED, finished_at=now, error=error),), now)


def cancel(execution: Execution, now: datetime) -> Step:
    """Ends the runs without a task at once; those with one end with it. Raises Conflict when it is over."""
    if execution.status is not ExecutionStatus.STARTED:
        raise Conflict("The execution has ended already", code="EXECUTION_ENDED")
    asked = replace(execution, cancelled_at=execution.cancelled_at or now)
    waiting = [run for run in asked.runs if run.status is RunStatus.PENDING and not run.task_id]
    ended = tuple(
        replace(run, status=RunStatus.CANCELLED, finished_at=now, error="The execution was cancelled")
        for run in waiting
    )
    return _end(asked, ended, now)


def execution_not_found(execution_id: str) -> NotFound:
    """There is no such execution, or it is another user's."""
    return NotFound("Execution not found", code="EXECUTION_NOT_FOUND", details={"execution_id": execution_id})


def _end(execution: Execution, ended: Sequence[Run], now: datetime) -> Step:
    """Writes runs that ended, lets the next one have its turn or ends the execution, and tells of it in that order."""
    events = []
    for run in ended:
        execution = replace(_with_run(execution, run), sequence=execution.sequence + 1)
        events.append(_event(EventType.RUN_FINISHED, execution, now, run))
    if all(run.status.is_end for run in execution.runs):
        status = ExecutionStatus.COMPLETED if execution.cancelled_at is None else ExecutionStatus.CANCELLED
        execution = replace(execution, status=status, finished_at=now, sequence=execution.sequence + 1)
        events.append(_event(EventType.FINISHED, execution, now))
    elif not execution.order.parallel and execution.cancelled_at is None:
        execution = _next_turn(execution, now)
    return Step(execution=execution, finished=tuple(ended), events=tuple(events))


def _next_turn(execution: Execution, now: datetime) -> Execution:
    following = next(run for run in execution.runs if not run.status.is_end)
    if following.deadline_at is not None:
        return execution
    deadline = now + timedelta(seconds=execution.order.timeout_seconds)
    return _with_run(execution, replace(following, deadline_at=deadline))


def _with_run(execution: Execution, run: Run) -> Execution:
    return replace(execution, runs=tuple(run if run.id == other.id else other for other in execution.runs))


def _find(execution: Execution, run_id: str) -> Run:
    return next(run for run in execution.runs if run.id == run_id)


def _event(type_: EventType, execution: Execution, at: datetime, run: Run | None = None) -> Event:
    return Event(type=type_, sequence=execution.sequence, at=at, execution=execution, run=run)


def _new_run(agent: Agent, **given: Any) -> Run:
    return Run(
        agent_id=agent.id,
        agent_name=agent.name,
        status=RunStatus.PENDING,
        task_id="",
        started_at=None,
        finished_at=None,
        output="",
        error="",
        model="",
        tokens=0,
        **given,
    )
