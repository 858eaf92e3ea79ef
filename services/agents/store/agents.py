"""Agents and their figures in Postgres."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, Select, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError

from chassis.database import Database
from services.agents.model.agent import (
    Agent,
    AgentStatus,
    Figures,
    Measured,
    Summary,
    agent_not_found,
    name_taken,
)
from services.agents.store.telling import Telling
from services.agents.tables import agents, figures


class AgentStore:
    """`services.agents.ports.Agents`.

    Args:
        telling: how a new agent is told of.
    """

    def __init__(self, database: Database, telling: Telling[Agent]) -> None:
        self._database = database
        self._telling = telling

    async def add(self, agent: Agent) -> None:
        statement = postgresql.insert(agents).values(_row(agent)).on_conflict_do_nothing(index_elements=["name"])
        async with self._database.transaction() as connection:
            if (await connection.execute(statement.returning(agents.c.id))).first() is None:
                raise name_taken(agent.name)
            await connection.execute(
                insert(figures).values(agent_id=agent.id, runs=0, successful_runs=0, successful_ms=0)
            )
            await self._telling.write(connection, [agent])
        self._telling.committed()

    async def get(self, agent_id: str) -> Measured:
        async with self._database.transaction() as connection:
            row = (await connection.execute(_measured().where(agents.c.id == agent_id))).mappings().first()
        if row is None:
            raise agent_not_found(agent_id)
        return _read(row)

    async def change(self, agent_id: str, change: Callable[[Agent], Agent]) -> Measured:
        locked = _measured().where(agents.c.id == agent_id).with_for_update(of=agents)
        async with self._database.transaction() as connection:
            row = (await connection.execute(locked)).mappings().first()
            if row is None:
                raise agent_not_found(agent_id)
            before = _read(row)
            after = change(before.agent)
            try:
                await connection.execute(update(agents).where(agents.c.id == agent_id).values(_row(after)))
            except IntegrityError as error:
                raise name_taken(after.name) from error
        return Measured(agent=after, figures=before.figures)

    async def remove(self, agent_id: str) -> None:
        statement = delete(agents).where(agents.c.id == agent_id).returning(agents.c.id)
        async with self._database.transaction() as connection:
            if (await connection.execute(statement)).first() is None:
                raise agent_not_found(agent_id)

    async def find(self, agent_ids: Sequence[str]) -> Sequence[Measured]:
        which = agents.c.id.in_(agent_ids) if agent_ids else agents.c.status == AgentStatus.ACTIVE
        statement = _measured().where(which).order_by(agents.c.created_at, agents.c.id)
        async with self._database.transaction() as connection:
            return [_read(row) for row in (await connection.execute(statement)).mappings()]

    async def page(self, *, skip: int, limit: int, status: str) -> tuple[Sequence[Measured], int]:
        statement = _measured().order_by(agents.c.created_at, agents.c.id).offset(skip).limit(limit)
        count = select(func.count()).select_from(agents)
        if status:
            statement, count = statement.where(agents.c.status == status), count.where(agents.c.status == status)
        async with self._database.transaction() as connection:
            found = [_read(row) for row in (await connection.execute(statement)).mappings()]
            total = (await connection.execute(count)).scalar_one()
        return found, total

    async def summary(self) -> Summary:
        active = func.count().filter(agents.c.status == AgentStatus.ACTIVE)
        counts = select(func.count().label("agents"), active.label("active_agents")).select_from(agents)
        sums = select(
            func.coalesce(func.sum(figures.c.runs), 0).label("runs"),
            func.coalesce(func.sum(figures.c.successful_runs), 0).label("successful_runs"),
            func.max(figures.c.last_run_at).label("last_run_at"),
        )
        async with self._database.transaction() as connection:
            counted = (await connection.execute(counts)).mappings().one()
            summed = (await connection.execute(sums)).mappings().one()
        return Summary(
            agents=counted["agents"],
            active_agents=counted["active_agents"],
            runs=int(summed["runs"]),
            successful_runs=int(summed["successful_runs"]),
            last_run_at=summed["last_run_at"],
        )


def _measured() -> Select[Any]:
    counted = (figures.c.runs, figures.c.successful_runs, figures.c.successful_ms, figures.c.last_run_at)
    return select(agents, *counted).outerjoin_from(agents, figures, figures.c.agent_id == agents.c.id)


def _read(row: RowMapping) -> Measured:
    agent = {column.name: row[column] for column in agents.c}
    agent |= {"capabilities": tuple(row["capabilities"]), "status": AgentStatus(row["status"])}
    measured = Figures(
        runs=row["runs"] or 0,
        successful_runs=row["successful_runs"] or 0,
        successful_ms=row["successful_ms"] or 0,
        last_run_at=row["last_run_at"],
    )
    return Measured(agent=Agent(**agent), figures=measured)


def _row(agent: Agent) -> dict[str, Any]:
    return asdict(agent) | {"capabilities": list(agent.capabilities), "status": agent.status.value}
