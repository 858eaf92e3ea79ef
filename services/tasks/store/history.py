"""History by day: parts of the tables of tasks, results and events, made ahead and dropped when they are old enough.

The parts stand in a schema of their own; a task's id begins with its time, so a day is a range of ids.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from chassis.database import Database, DriverConnection
from chassis.errors import Unavailable
from chassis.logging import get_logger
from services.tasks.model.ids import first_id

log = get_logger(__name__)

_TABLES = ("task", "task_result", "task_event")
_LOCK_KEY = 0x54534B48495354
# Whoever waits longer for a table stands in everybody's way, and comes again later.
_LOCK_TIMEOUT = "500ms"

_PARTS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bounds
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'tasks.task'::regclass ORDER BY c.relname
"""
_BOUNDS = re.compile(r"FROM \((?:MINVALUE|'(task_[0-9A-Z]+)')\) TO \('(task_[0-9A-Z]+)'\)")
_ALIVE = "SELECT EXISTS (SELECT 1 FROM tasks.task_live WHERE task_id >= $1 AND task_id < $2)"

# What belongs to tasks that are gone.
_PRUNE = """
WITH d AS (DELETE FROM tasks.dead_letter WHERE task_id >= $1 AND task_id < $2)
DELETE FROM tasks.cron_fire f WHERE task_id >= $1 AND task_id < $2 AND EXISTS (
  SELECT 1 FROM tasks.cron_fire later WHERE later.schedule_id = f.schedule_id AND later.fire_at > f.fire_at)
"""


class History:
    """Keeps the days."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep_days(self, now: datetime, *, ahead: int, retained: int) -> Sequence[str]:
        """See `ports.UpkeepStore`."""
        today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        async with self._database.driver() as pg:
            await pg.execute("SELECT pg_advisory_xact_lock($1)", _LOCK_KEY)
            parts = {row["relname"]: _bounds(row["bounds"]) for row in await pg.fetch(_PARTS)}
            last = max(upper for _, upper in parts.values())
            for number in range(ahead + 1):
                day = today + timedelta(days=number)
                if first_id("task", day) >= last:
                    await _add(pg, day)
        oldest = first_id("task", today - timedelta(days=retained))
        old = [name for name, (_, upper) in parts.items() if upper <= oldest]
        return [name for name in old if await self._drop(name, *parts[name])]

    async def _drop(self, name: str, lower: str, upper: str) -> bool:
        """Drops a day, unless something in it is alive: then it stays until that has ended."""
        async with self._database.driver() as pg:
            if await pg.fetchval(_ALIVE, lower, upper):
                return False
        try:
            async with self._database.driver() as pg:
                await pg.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                # Nobody revives a task of that day from here on.
                await pg.execute(f"LOCK TABLE {', '.join(f'tasks.{table}' for table in _TABLES)}")
                if await pg.fetchval(_ALIVE, lower, upper):
                    return False
                for table in _TABLES:
                    part = f"tasks_history.{table}{name.removeprefix('task')}"
                    await pg.execute(f"ALTER TABLE tasks.{table} DETACH PARTITION {part}")
                    await pg.execute(f"DROP TABLE {part}")
                await pg.execute(_PRUNE, lower, upper)
        except Unavailable as error:
            log.info("A day of history is dropped later", part=name, error=str(error))
            return False
        log.info("A day of history was dropped", part=name)
        return True


async def _add(pg: DriverConnection, day: datetime) -> None:
    """Made apart and attached, which holds up nobody who reads or writes."""
    lower, upper = first_id("task", day), first_id("task", day + timedelta(days=1))
    for table in _TABLES:
        part = f"tasks_history.{table}_p{day:%Y%m%d}"
        await pg.execute(f"CREATE TABLE {part} (LIKE tasks.{table} INCLUDING ALL)")
        await pg.execute(
            f"ALTER TABLE tasks.{table} ATTACH PARTITION {part} FOR VALUES FROM ('{lower}') TO ('{upper}')"
        )


def _bounds(written: str) -> tuple[str, str]:
    found = _BOUNDS.search(written)
    if found is None:
        raise ValueError(f"a part of history without an end: {written}")
    return found.group(1) or "", found.group(2)
