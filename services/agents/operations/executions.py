"""Executions: started, followed through the news of their tasks, repaired, cancelled and read.

The row is first: an execution is committed before any of its tasks is submitted, so whatever happens in between is
continued from what is at rest. Submitting twice is harmless, because a run's key is its execution and its agent.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from chassis.clock import Clock
from chassis.errors import Conflict, Invalid, MeshError, NotFound
from services.agents.model import steps
from services.agents.model.execution import Execution, News, Run, RunStatus
from services.agents.model.order import Order, choose, key_reused
from services.agents.ports import Agents, Executions, NewIds, RunFilter, Tasks

DEFAULT_PAGE = 50
MAX_PAGE = 1000
_SUBMITTED_AT_ONCE = 32
_REPAIRED_AT_ONCE = 100


class Engine:
    """The use-cases around executions."""

    def __init__(self, executions: Executions, agents: Agents, tasks: Tasks, *, clock: Clock, new_ids: NewIds) -> None:
        self._executions = executions
        self._agents = agents
        self._tasks = tasks
        self._clock = clock
        self._new_ids = new_ids

    async def execute(self, order: Order, traceparent: str) -> Execution:
        """Starts an execution, or returns the one its key belongs to. Raises Invalid, Conflict."""
        if order.idempotency_key:
            known = await self._executions.find_by_key(order.owner_id, order.idempotency_key)
            if known is not None:
                return _replayed(known, order)
        agents = choose(order, await self._agents.find(order.agent_ids))
        step = steps.begin(order, agents, self._new_ids(len(agents) + 1), self._clock.now(), traceparent)
        execution = await self._executions.add(step)
        if execution.id != step.execution.id:
            return _replayed(execution, order)
        submitted, _ = await self._submit_due(execution)
        return submitted

    async def hear(self, news: News) -> None:
        """Applies news of a task, and submits the run whose turn has come by it. Foreign news changes nothing."""
        try:
            execution = await self._apply(news)
        except NotFound:
            return
        run = steps.concerned(execution, news)
        if run is not None and steps.lacks_start(run, news):
            await self._apply(await self._tasks.look(execution, replace(run, task_id=news.task_id)))

    async def _apply(self, news: News) -> Execution:
        step = await self._executions.advance(
            news.execution_id, lambda execution: steps.hear(execution, news, self._clock.now())
        )
        if step.finished:
            await self._submit_due(step.execution)
        return step.execution

    async def repair(self, *, quiet_seconds: float) -> Sequence[MeshError]:
        """Continues what was not submitted and asks after tasks of which nothing was heard; returns what went wrong."""
        quiet = await self._executions.take_quiet(quiet_seconds=quiet_seconds, limit=_REPAIRED_AT_ONCE)
        failures: list[MeshError] = []
        for execution_id in dict.fromkeys(execution_id for execution_id, _ in quiet):
            run_ids = {run_id for other_id, run_id in quiet if other_id == execution_id}
            try:
                failures += await self._repair(execution_id, run_ids)
            except MeshError as error:
                failures.append(error)
        return failures

    async def cancel(self, execution_id: str, owner_id: str) -> Execution:
        """Ends what has not started and asks the rest to stop. Raises NotFound, Conflict when it is over."""
        await self._executions.get(execution_id, owner_id)
        step = await self._executions.advance(
            execution_id, lambda execution: steps.cancel(execution, self._clock.now())
        )
        # What cannot be asked now is asked again by the repair.
        await asyncio.gather(*(self._stop(step.execution, run) for run in _under_way(step.execution)))
        return step.execution

    async def get(self, execution_id: str, owner_id: str) -> Execution:
        """Raises NotFound."""
        return await self._executions.get(execution_id, owner_id)

    async def page(self, which: RunFilter) -> tuple[Sequence[Run], int]:
        """The log, newest first. Raises Invalid for an unknown status."""
        if which.status and which.status not in tuple(RunStatus):
            raise Invalid("Unknown status", details={"field": "status", "known": ", ".join(RunStatus)})
        return await self._executions.page(which)

    async def _repair(self, execution_id: str, run_ids: set[str]) -> Sequence[MeshError]:
        execution = await self._executions.get(execution_id, "")
        execution, failures = await self._submit_due(execution)
        for run in _under_way(execution):
            if run.id in run_ids:
                if execution.cancelled_at is not None:
                    await self._tasks.cancel(execution, run)
                await self._apply(await self._tasks.look(execution, run))
        return failures

    async def _submit_due(self, execution: Execution) -> tuple[Execution, Sequence[MeshError]]:
        """Submits the runs whose turn has come. What fails for now stays due, for the repair."""
        if not execution.due:
            return execution, ()
        outcomes = await self._submit_all(execution)
        accepted = {
            run.id: outcome for run, outcome in zip(execution.due, outcomes, strict=True) if isinstance(outcome, str)
        }
        if accepted:
            step = await self._executions.advance(execution.id, partial(steps.submitted, accepted=accepted))
            await self._stop_ended(step.execution, accepted)
            execution_now = step.execution
        else:
            execution_now = execution
        failures = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        for run, outcome in zip(execution.due, outcomes, strict=True):
            if isinstance(outcome, Invalid | Conflict):
                execution_now = await self._refuse(execution_now.id, run.id, outcome)
        return execution_now, failures

    async def _submit_all(self, execution: Execution) -> Sequence[str | MeshError]:
        """The task of each due run, or why it has none. After the first outage the rest is not even tried."""
        gate = asyncio.Semaphore(_SUBMITTED_AT_ONCE)
        outages: list[MeshError] = []

        async def submit(run: Run) -> str | MeshError:
            async with gate:
                if outages:
                    return outages[0]
                try:
                    return await self._tasks.submit(execution, run)
                except (Invalid, Conflict) as error:
                    return error
                except MeshError as error:
                    outages.append(error)
                    return error

        return await asyncio.gather(*(submit(run) for run in execution.due))

    async def _stop(self, execution: Execution, run: Run) -> MeshError | None:
        try:
            await self._tasks.cancel(execution, run)
        except MeshError as error:
            return error
        return None

    async def _refuse(self, execution_id: str, run_id: str, error: MeshError) -> Execution:
        step = await self._executions.advance(
            execution_id, lambda execution: steps.refuse(execution, run_id, error.message, self._clock.now())
        )
        submitted, _ = await self._submit_due(step.execution)
        return submitted

    async def _stop_ended(self, execution: Execution, accepted: dict[str, str]) -> None:
        """A run that was cancelled while its task was being submitted: the task must not go on alone."""
        for run in execution.runs:
            if run.id in accepted and run.status is RunStatus.CANCELLED:
                await self._tasks.cancel(execution, run)


def _under_way(execution: Execution) -> Sequence[Run]:
    """Runs that have a task and no end."""
    return [run for run in execution.runs if run.task_id and not run.status.is_end]


def _replayed(execution: Execution, order: Order) -> Execution:
    if execution.order.fingerprint != order.fingerprint:
        raise key_reused()
    return execution
