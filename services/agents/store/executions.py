"""Executions, runs and their figures in Postgres. What a step writes and what it announces are one commit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import RowMapping, Select, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from services.agents.model.execution import Event, Execution, ExecutionStatus, Run, RunStatus, Step
from services.agents.model.order import Order
from services.agents.model.steps import execution_not_found
from services.agents.ports import RunFilter
from services.agents.store.telling import Telling
from services.agents.tables import executions, figures, runs

_RUN_COLUMNS = tuple(column for column in runs.c if column.name not in {"owner_id", "checked_at"})


class ExecutionStore:
    """`services.agents.ports.Executions`.

    Args:
        telling: how its events are told.
    """

    def __init__(self, database: Database, telling: Telling[Event]) -> None:
        self._database = database
        self._telling = telling

    async def add(self, step: Step) -> Execution:
        execution = step.execution
        statement = postgresql.insert(executions).values(_row(execution)).on_conflict_do_nothing()
        async with self._database.transaction() as connection:
            if (await connection.execute(statement.returning(executions.c.id))).first() is None:
                # Another call with the same key was first; it has committed, or this insert would still wait for it.
                key = execution.order.idempotency_key
                return await _load(connection, _by_key(execution.order.owner_id, key), execution.id)
            await connection.execute(insert(runs), [_run_row(run, execution) for run in execution.runs])
            await self._telling.write(connection, step.events)
        self._telling.committed()
        return execution

    async def get(self, execution_id: str, owner_id: str) -> Execution:
        statement = select(executions).where(executions.c.id == execution_id)
        if owner_id:
            statement = statement.where(executions.c.owner_id == owner_id)
        async with self._database.transaction() as connection:
            return await _load(connection, statement, execution_id)

    async def find_by_key(self, owner_id: str, key: str) -> Execution | None:
        async with self._database.transaction() as connection:
            row = (await connection.execute(_by_key(owner_id, key))).mappings().first()
            return None if row is None else await _with_runs(connection, row)

    async def advance(self, execution_id: str, change: Callable[[Execution], Step]) -> Step:
        locked = select(executions).where(executions.c.id == execution_id).with_for_update()
        async with self._database.transaction() as connection:
            before = await _load(connection, locked, execution_id)
            step = change(before)
            await _write(connection, before, step)
            await self._telling.write(connection, step.events)
        if step.events:
            self._telling.committed()
        return step

    async def page(self, which: RunFilter) -> tuple[Sequence[Run], int]:
        statement = _filtered(select(*_RUN_COLUMNS), which)
        newest_first = statement.order_by(runs.c.created_at.desc(), runs.c.id.desc())
        count = _filtered(select(func.count()).select_from(runs), which)
        async with self._database.transaction() as connection:
            found = (await connection.execute(newest_first.offset(which.skip).limit(which.limit))).mappings()
            read = [_read_run(row) for row in found]
            total = (await connection.execute(count)).scalar_one()
        return read, total

    async def take_quiet(self, *, quiet_seconds: float, limit: int) -> Sequence[tuple[str, str]]:
        under_way = (RunStatus.PENDING.value, RunStatus.RUNNING.value)
        quiet = (
            select(runs.c.id)
            .where(
                runs.c.status.in_(under_way),
                runs.c.deadline_at.is_not(None),
                runs.c.checked_at < func.clock_timestamp() - timedelta(seconds=quiet_seconds),
            )
            .order_by(runs.c.checked_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        statement = update(runs).where(runs.c.id.in_(quiet.scalar_subquery())).values(checked_at=func.clock_timestamp())
        async with self._database.transaction() as connection:
            taken = await connection.execute(statement.returning(runs.c.execution_id, runs.c.id))
            return [(row.execution_id, row.id) for row in taken]


async def _write(connection: AsyncConnection, before: Execution, step: Step) -> None:
    after = step.execution
    old = {run.id: run for run in before.runs}
    changed = [run for run in after.runs if run != old[run.id]]
    if changed:
        rows = [{f"new_{name}": value for name, value in _run_row(run, after).items()} for run in changed]
        names = [name for name in rows[0] if name != "new_id"]
        values: dict[str, Any] = {name.removeprefix("new_"): bindparam(name) for name in names}
        statement = update(runs).where(runs.c.id == bindparam("new_id"))
        await connection.execute(statement.values(**values, checked_at=func.clock_timestamp()), rows)
    if (old_row := _row(before)) != (new_row := _row(after)):
        differing = {name: value for name, value in new_row.items() if value != old_row[name]}
        await connection.execute(update(executions).where(executions.c.id == after.id).values(**differing))
    for run in step.finished:
        await connection.execute(_count(run))


def _count(run: Run) -> postgresql.Insert:
    success = run.status is RunStatus.SUCCESS
    first = postgresql.insert(figures).values(
        agent_id=run.agent_id,
        runs=1,
        successful_runs=int(success),
        successful_ms=run.duration_ms if success else 0,
        last_run_at=run.finished_at,
    )
    new = first.excluded
    return first.on_conflict_do_update(
        index_elements=[figures.c.agent_id],
        set_={
            "runs": figures.c.runs + new.runs,
            "successful_runs": figures.c.successful_runs + new.successful_runs,
            "successful_ms": figures.c.successful_ms + new.successful_ms,
            "last_run_at": func.greatest(figures.c.last_run_at, new.last_run_at),
        },
    )


def _by_key(owner_id: str, key: str) -> Select[Any]:
    return select(executions).where(
        executions.c.owner_id == owner_id, executions.c.idempotency_key == key, executions.c.idempotency_key != ""
    )


def _filtered(statement: Select[Any], which: RunFilter) -> Select[Any]:
    wanted = {
        runs.c.agent_id: which.agent_id,
        runs.c.status: which.status,
        runs.c.owner_id: which.owner_id,
        runs.c.execution_id: which.execution_id,
    }
    return statement.where(*(column == value for column, value in wanted.items() if value))


async def _load(connection: AsyncConnection, statement: Select[Any], execution_id: str) -> Execution:
    row = (await connection.execute(statement)).mappings().first()
    if row is None:
        raise execution_not_found(execution_id)
    return await _with_runs(connection, row)


async def _with_runs(connection: AsyncConnection, row: RowMapping) -> Execution:
    statement = select(*_RUN_COLUMNS).where(runs.c.execution_id == row["id"]).order_by(runs.c.position)
    return _read(row, (await connection.execute(statement)).mappings())


def _read(row: RowMapping, run_rows: Iterable[RowMapping]) -> Execution:
    order = Order(
        owner_id=row["owner_id"],
        agent_ids=tuple(row["agent_ids"]),
        parallel=row["parallel"],
        timeout_seconds=row["timeout_seconds"],
        input=row["input"],
        idempotency_key=row["idempotency_key"],
    )
    return Execution(
        id=row["id"],
        order=order,
        status=ExecutionStatus(row["status"]),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancelled_at=row["cancelled_at"],
        estimated_seconds=row["estimated_seconds"],
        sequence=row["sequence"],
        traceparent=row["traceparent"],
        runs=tuple(_read_run(run_row) for run_row in run_rows),
    )


def _read_run(row: RowMapping) -> Run:
    return Run(**{**row, "status": RunStatus(row["status"])})


def _row(execution: Execution) -> dict[str, Any]:
    row = {name: getattr(execution, name) for name in execution.__slots__ if name not in {"order", "runs"}}
    order = asdict(execution.order) | {"agent_ids": list(execution.order.agent_ids)}
    return row | order | {"status": execution.status.value}


def _run_row(run: Run, execution: Execution) -> dict[str, Any]:
    return asdict(run) | {"status": run.status.value, "owner_id": execution.order.owner_id}
