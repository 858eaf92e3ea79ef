"""Schedules at rest, and the one transaction in which a time that has come becomes a task."""

from collections.abc import Sequence
from typing import Any

from chassis.errors import MeshError
from services.tasks.model.cron import Misfire, Schedule, Times
from services.tasks.model.task import Accepted, Draft
from services.tasks.ports import ChangeSchedule, Plan
from services.tasks.store.accepting import Accepting

_COLUMNS = """schedule_id, owner_id, name, cron, timezone, misfire, paused, kind, payload, labels, priority,
  max_attempts, timeout_seconds, unique_key, created_at, next_at"""

_SAVE = f"""
INSERT INTO tasks.cron_schedule ({_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (schedule_id) DO UPDATE SET name = excluded.name, cron = excluded.cron, timezone = excluded.timezone,
  misfire = excluded.misfire, paused = excluded.paused, kind = excluded.kind, payload = excluded.payload,
  labels = excluded.labels, priority = excluded.priority, max_attempts = excluded.max_attempts,
  timeout_seconds = excluded.timeout_seconds, unique_key = excluded.unique_key, next_at = excluded.next_at
"""  # noqa: S608 - a fixed column list

_SHOWN = """
SELECT s.*, f.fire_at AS last_at, coalesce(f.task_id, '') AS last_task_id
FROM tasks.cron_schedule s LEFT JOIN LATERAL (
  SELECT fire_at, task_id FROM tasks.cron_fire f WHERE f.schedule_id = s.schedule_id ORDER BY fire_at DESC LIMIT 1
) f ON true"""

_FIND = f"{_SHOWN} WHERE s.schedule_id = $1 AND ($2 = '' OR s.owner_id = $2)"
_PAGE = f"{_SHOWN} WHERE $1 = '' OR s.owner_id = $1 ORDER BY s.schedule_id DESC OFFSET $2 LIMIT $3"
_COUNT = "SELECT count(*) FROM tasks.cron_schedule s WHERE $1 = '' OR s.owner_id = $1"
_LOCK = "SELECT FROM tasks.cron_schedule WHERE schedule_id = $1 FOR UPDATE"

_DUE = """
SELECT s.*, NULL::timestamptz AS last_at, '' AS last_task_id, clock_timestamp() AS now
FROM tasks.cron_schedule s
WHERE next_at <= clock_timestamp() ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED
"""

# The row of a schedule and a time: whoever makes it submits the task, and nobody else ever will.
_FIRE = """
INSERT INTO tasks.cron_fire (schedule_id, fire_at, task_id)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[])
ON CONFLICT DO NOTHING RETURNING task_id
"""
_RENAME = """
UPDATE tasks.cron_fire f SET task_id = i.twin FROM unnest($1::text[], $2::timestamptz[], $3::text[])
  AS i(schedule_id, fire_at, twin)
WHERE f.schedule_id = i.schedule_id AND f.fire_at = i.fire_at
  AND f.schedule_id = ANY($1::text[]) AND f.fire_at = ANY($2::timestamptz[])
"""
_DELETE = """
WITH s AS (
  DELETE FROM tasks.cron_schedule WHERE schedule_id = $1 AND ($2 = '' OR owner_id = $2) RETURNING schedule_id
), f AS (
  DELETE FROM tasks.cron_fire WHERE schedule_id = $1 AND EXISTS (SELECT FROM s)
)
SELECT schedule_id FROM s
"""
_NEXT = "UPDATE tasks.cron_schedule SET next_at = $2 WHERE schedule_id = $1"


class Schedules(Accepting):
    """`ports.ScheduleStore`; what is due is accepted as any other submission."""

    async def save_schedule(self, schedule: Schedule) -> None:
        """See `ports.ScheduleStore`."""
        async with self._passing.transaction() as transaction:
            await transaction.pg.execute(_SAVE, *_row(schedule))

    async def change_schedule(self, schedule_id: str, owner_id: str, change: ChangeSchedule) -> Schedule | None:
        """See `ports.ScheduleStore`."""
        async with self._passing.transaction() as transaction:
            await transaction.pg.fetch(_LOCK, schedule_id)
            row = await transaction.pg.fetchrow(_FIND, schedule_id, owner_id)
            if row is None:
                return None
            changed = change(_schedule(row))
            await transaction.pg.execute(_SAVE, *_row(changed))
        return changed

    async def delete_schedule(self, schedule_id: str, owner_id: str) -> bool:
        """See `ports.ScheduleStore`."""
        async with self._passing.transaction() as transaction:
            return await transaction.pg.fetchval(_DELETE, schedule_id, owner_id) is not None

    async def find_schedule(self, schedule_id: str, owner_id: str) -> Schedule | None:
        """See `ports.ScheduleStore`."""
        async with self._passing.transaction() as transaction:
            row = await transaction.pg.fetchrow(_FIND, schedule_id, owner_id)
        return None if row is None else _schedule(row)

    async def list_schedules(self, owner_id: str, *, offset: int, limit: int) -> tuple[Sequence[Schedule], int]:
        """See `ports.ScheduleStore`."""
        async with self._passing.transaction() as transaction:
            rows = await transaction.pg.fetch(_PAGE, owner_id, offset, limit)
            total = await transaction.pg.fetchval(_COUNT, owner_id)
        return [_schedule(row) for row in rows], total

    async def fire_due(self, plan: Plan, limit: int) -> tuple[int, Sequence[Accepted | MeshError]]:
        """See `ports.ScheduleStore`."""
        async with self._passing.transaction() as transaction:
            pg = transaction.pg
            fires = []
            rows = await pg.fetch(_DUE, limit)
            for row in rows:
                firing = plan(_schedule(row), row["now"])
                if firing is not None:
                    fires += [(row["schedule_id"], at, submission) for at, submission in firing.submissions]
                    await pg.execute(_NEXT, row["schedule_id"], firing.next_at)
            if not fires:
                return len(rows), []
            keys = [[one for one, _, _ in fires], [at for _, at, _ in fires]]
            taken = {row["task_id"] for row in await pg.fetch(_FIRE, *keys, [s.task_id for _, _, s in fires])}
            mine = [fire for fire in fires if fire[2].task_id in taken]
            answers = await self._accept(transaction, [submission for _, _, submission in mine], (), {})
            twins = [
                (schedule_id, at, answer.task.task_id)
                for (schedule_id, at, _), answer in zip(mine, answers, strict=True)
                if isinstance(answer, Accepted) and answer.duplicate
            ]
            if twins:
                await pg.execute(_RENAME, *(list(column) for column in zip(*twins, strict=True)))
        return len(rows), answers


def _row(schedule: Schedule) -> tuple[Any, ...]:
    task = schedule.task
    return (
        schedule.schedule_id,
        schedule.owner_id,
        schedule.name,
        schedule.times.cron,
        schedule.times.timezone,
        schedule.misfire,
        schedule.paused,
        task.kind,
        task.payload,
        task.labels,
        task.priority,
        task.max_attempts,
        task.timeout_seconds,
        task.unique_key,
        schedule.created_at,
        schedule.next_at,
    )


def _schedule(row: Any) -> Schedule:
    return Schedule(
        schedule_id=row["schedule_id"],
        owner_id=row["owner_id"],
        name=row["name"],
        times=Times(cron=row["cron"], timezone=row["timezone"]),
        misfire=Misfire(row["misfire"]),
        paused=row["paused"],
        task=Draft(
            owner_id=row["owner_id"],
            kind=row["kind"],
            priority=row["priority"],
            payload=row["payload"],
            labels=row["labels"],
            max_attempts=row["max_attempts"],
            timeout_seconds=row["timeout_seconds"],
            run_at=None,
            deadline_at=None,
            traceparent="",
            idempotency_key="",
            unique_key=row["unique_key"],
            schedule_id=row["schedule_id"],
        ),
        created_at=row["created_at"],
        next_at=row["next_at"],
        last_at=row["last_at"],
        last_task_id=row["last_task_id"],
    )
