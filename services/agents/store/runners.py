"""Leases of the processes that run agents, on the database's clock."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql

from chassis.database import Database
from services.agents.tables import runners


class RunnerStore:
    """`services.agents.ports.Runners`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew(self, instance: str, *, port: int, lease_seconds: float) -> None:
        until = func.clock_timestamp() + timedelta(seconds=lease_seconds)
        first = postgresql.insert(runners).values(instance=instance, port=port, lease_until=until)
        statement = first.on_conflict_do_update(
            index_elements=[runners.c.instance], set_={"port": port, "lease_until": until}
        )
        # Processes whose name changes with every start leave rows behind.
        forgotten = delete(runners).where(runners.c.lease_until < func.clock_timestamp() - timedelta(hours=1))
        async with self._database.transaction() as connection:
            await connection.execute(statement)
            await connection.execute(forgotten)

    async def remove(self, instance: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(runners).where(runners.c.instance == instance))

    async def live_port(self) -> int:
        statement = (
            select(runners.c.port)
            .where(runners.c.lease_until > func.clock_timestamp())
            .order_by(runners.c.lease_until.desc())
            .limit(1)
        )
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).scalar() or 0
