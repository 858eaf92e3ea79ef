"""What callers see: tasks joined from their three tables, pages of them, and their feeds."""

from collections.abc import Sequence
from typing import Any

from chassis.database import Database, DriverConnection
from services.tasks.model.states import EventType, Priority, State
from services.tasks.model.task import Event, Task, TaskError

_FACTS = """
  t.task_id, t.kind, t.owner_id, t.priority, t.created_at, t.run_at, t.traceparent, t.labels, t.timeout_seconds,
  t.run_after, t.join_any, t.unique_key, t.deadline_at, t.schedule_id,
  coalesce(l.state, r.state) AS state, coalesce(l.attempt, r.attempt) AS attempt,
  coalesce(l.max_attempts, r.max_attempts) AS max_attempts, coalesce(l.progress, r.progress) AS progress,
  coalesce(l.started_at, r.started_at) AS started_at, r.finished_at, r.error_code, r.error_message"""

_JOINED = """
FROM tasks.task t
LEFT JOIN tasks.task_live l USING (task_id)
LEFT JOIN tasks.task_result r USING (task_id)"""

# What there is as long as there is no result.
_PARTIAL = (
    f"CASE r.state WHEN {State.SUCCEEDED:d} THEN ''::bytea ELSE coalesce(l.partial, r.partial, '') END AS partial"
)
_WHOLE = f"SELECT {_FACTS}, t.payload, coalesce(r.result, '') AS result, {_PARTIAL} {_JOINED}"

_FIND = f"{_WHOLE} WHERE t.task_id = $1 AND ($2 = '' OR t.owner_id = $2)"
# Looked up one by one, also where plans join by hashing: `store.HOT_PLANNER`.
_FIND_MANY = f"""
SELECT {_FACTS}, t.payload, coalesce(r.result, '') AS result, {_PARTIAL}
FROM tasks.task t
LEFT JOIN LATERAL (SELECT * FROM tasks.task_live l WHERE l.task_id = t.task_id OFFSET 0) AS l ON true
LEFT JOIN LATERAL (SELECT * FROM tasks.task_result r WHERE r.task_id = t.task_id OFFSET 0) AS r ON true
WHERE t.task_id = ANY($1::text[])
"""  # noqa: S608 - the parts above

# A task ends between two statements of one call, so the page and the count come from one snapshot each; the state is
# in one of two tables, and a task is always in exactly one of them.
_FILTER = """
WHERE ($1 = '' OR t.owner_id = $1)
  AND (cardinality($2::smallint[]) = 0 OR coalesce(l.state, r.state) = ANY($2))
  AND (cardinality($3::text[]) = 0 OR t.kind = ANY($3))"""
_PAGE = f"SELECT {_FACTS} {_JOINED} {_FILTER} ORDER BY t.task_id DESC OFFSET $4 LIMIT $5"
_COUNT = f"SELECT count(*) {_JOINED} {_FILTER}"
_COUNT_ALL = """
SELECT count(*) FROM tasks.task t
WHERE ($1 = '' OR t.owner_id = $1) AND (cardinality($2::text[]) = 0 OR t.kind = ANY($2))"""

# The first event and a success are not kept as such (but those of earlier releases are): the task and its result say
# the same. Nothing comes after a success, so its number is the next.
_EVENTS = f"""
WITH e AS (
  SELECT sequence, type, attempt, at, data FROM tasks.task_event
  WHERE task_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
), m AS (
  SELECT sequence, type FROM tasks.task_event WHERE task_id = $1 ORDER BY sequence DESC LIMIT 1
)
SELECT * FROM (
  SELECT * FROM e
  UNION ALL SELECT 1, '{EventType.QUEUED}', 0, created_at, '{{}}' FROM tasks.task
  WHERE task_id = $1 AND NOT EXISTS (SELECT FROM tasks.task_event WHERE task_id = $1 AND sequence = 1)
  UNION ALL SELECT (SELECT sequence FROM m) + 1, '{EventType.SUCCEEDED}', attempt, finished_at, '{{}}'
  FROM tasks.task_result
  WHERE task_id = $1 AND state = {State.SUCCEEDED:d} AND NOT EXISTS (SELECT FROM m WHERE type = '{EventType.SUCCEEDED}')
) AS feed
WHERE sequence > $2 ORDER BY sequence LIMIT $3
"""  # noqa: S608 - names and numbers of the model


class Reading:
    """Reads and locks nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, task_id: str, owner_id: str) -> Task | None:
        """See `ports.TaskStore`."""
        async with self._database.statement() as pg:
            row = await pg.fetchrow(_FIND, task_id, owner_id)
        return None if row is None else _to_task(row)

    async def list_tasks(
        self, owner_id: str, states: Sequence[State], kinds: Sequence[str], *, offset: int, limit: int
    ) -> tuple[list[Task], int]:
        """See `ports.TaskStore`."""
        chosen, named = list(states), list(kinds)
        async with self._database.statement() as pg:
            rows = await pg.fetch(_PAGE, owner_id, chosen, named, offset, limit)
            # Without a filter on states no join is needed to count.
            total = (
                await pg.fetchval(_COUNT, owner_id, chosen, named)
                if chosen
                else await pg.fetchval(_COUNT_ALL, owner_id, named)
            )
        return [_to_task(row) for row in rows], total

    async def list_events(self, task_id: str, since: int, limit: int) -> list[Event]:
        """See `ports.TaskStore`."""
        async with self._database.statement() as pg:
            rows = await pg.fetch(_EVENTS, task_id, since, limit)
        return [Event(**dict(row)) for row in rows]


async def read_tasks(pg: DriverConnection, task_ids: Sequence[str]) -> list[Task]:
    """Whole tasks by id."""
    return [_to_task(row) for row in await pg.fetch(_FIND_MANY, list(task_ids))]


def _to_task(row: Any) -> Task:
    values = dict(row)
    code, message = values.pop("error_code"), values.pop("error_message")
    return Task(
        state=State(values.pop("state")),
        priority=Priority(values.pop("priority")),
        error=None if code is None else TaskError(code=code, message=message),
        run_after=tuple(values.pop("run_after") or ()),
        unique_key=values.pop("unique_key") or "",
        schedule_id=values.pop("schedule_id") or "",
        payload=values.pop("payload", b""),
        result=values.pop("result", b""),
        **values,
    )
