"""Background scans: sessions that are over, timers that are due, attempts past their time, tasks without a pointer.

Each takes a bounded number of rows and skips what another process has locked.
"""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and fixed column lists

from collections.abc import Sequence
from typing import Any

from chassis.database import Database
from services.tasks.model.graph import Standing
from services.tasks.model.states import Priority, Purpose, State
from services.tasks.model.task import Change, Live, Notice
from services.tasks.ports import Decide, Release
from services.tasks.store.changes import LIVE_COLUMNS, apply
from services.tasks.store.outgoing import Outgoing
from services.tasks.store.sessions import UNSEEN_SECONDS

_LOCK_ONE = f"""
SELECT {LIVE_COLUMNS} FROM tasks.task_live l JOIN tasks.task t USING (task_id)
WHERE l.task_id = $1 AND ($2 = '' OR t.owner_id = $2) FOR UPDATE OF l
"""

# Sessions that were alive when nobody could look any more have a lease from now on: their workers may be at work, and
# could not say so. Only one process at a time looks; one that hangs while it does holds up none.
_LOOK = f"""
WITH o AS (
  SELECT looked_at FROM tasks.lease_watch FOR UPDATE SKIP LOCKED
), n AS (
  UPDATE tasks.lease_watch w SET looked_at = clock_timestamp() FROM o
  RETURNING o.looked_at AS before, w.looked_at AS now
), s AS (
  UPDATE tasks.worker_session s SET lease_until = n.now + make_interval(secs => $1) FROM n
  WHERE n.before < n.now - interval '{UNSEEN_SECONDS} s' AND s.lease_until > n.before
    AND s.lease_until < n.now + make_interval(secs => $1)
)
SELECT coalesce((SELECT now FROM n), clock_timestamp())
"""

# The index on sessions leads to running rows alone. A session that is missing altogether counts as over.
_LOCK_LOST = f"""
SELECT {LIVE_COLUMNS} FROM tasks.task_live l JOIN tasks.task t USING (task_id)
LEFT JOIN tasks.worker_session s ON s.session_id = l.session_id
WHERE l.session_id IS NOT NULL AND (s.session_id IS NULL OR s.lease_until <= $2)
ORDER BY l.task_id LIMIT $1 FOR UPDATE OF l SKIP LOCKED
"""

_LOCK_OVERDUE = f"""
SELECT {LIVE_COLUMNS} FROM tasks.task_live l JOIN tasks.task t USING (task_id)
WHERE l.session_id IS NOT NULL
  AND (l.timeout_at <= clock_timestamp() OR l.cancel_at <= clock_timestamp() - make_interval(secs => $2))
ORDER BY l.task_id LIMIT $1 FOR UPDATE OF l SKIP LOCKED
"""

_TAKE_DUE = """
DELETE FROM tasks.schedule WHERE (due_at, task_id, purpose) IN (
  SELECT due_at, task_id, purpose FROM tasks.schedule WHERE due_at <= clock_timestamp()
  ORDER BY due_at, task_id LIMIT $1 FOR UPDATE SKIP LOCKED
) RETURNING task_id, purpose, attempt
"""

_LOCK_DUE = f"""
SELECT {LIVE_COLUMNS} FROM tasks.task_live l JOIN tasks.task t USING (task_id)
WHERE l.task_id = ANY($1::text[]) ORDER BY l.task_id FOR UPDATE OF l
"""

# What has ended well or otherwise among the tasks that each runs after.
_STANDINGS = f"""
SELECT t.task_id, t.join_any, cardinality(t.run_after) AS named,
       count(r.task_id) FILTER (WHERE r.state = {State.SUCCEEDED:d}) AS succeeded,
       count(r.task_id) FILTER (WHERE r.state <> {State.SUCCEEDED:d}) AS failed
FROM tasks.task t CROSS JOIN LATERAL unnest(t.run_after) AS a(after_id)
LEFT JOIN tasks.task_result r ON r.task_id = a.after_id
WHERE t.task_id = ANY($1::text[]) GROUP BY t.task_id, t.join_any, t.run_after
"""

# One that still waits to be published is not lost: in the table, or in the process that accepted it.
_POINT_AGAIN = f"""
WITH c AS (
  SELECT l.task_id FROM tasks.task_live l
  JOIN unnest($1::text[], $2::smallint[]) AS q(work_group, priority) USING (work_group, priority)
  WHERE l.state = {State.QUEUED:d} AND l.enqueued_at <= clock_timestamp() - make_interval(secs => $3)
    AND NOT EXISTS (SELECT 1 FROM tasks.pointer p WHERE p.task_id = l.task_id)
    AND l.task_id NOT IN (SELECT unnest(d.task_ids) FROM tasks.direct d)
  ORDER BY l.task_id LIMIT $4 FOR UPDATE OF l SKIP LOCKED
)
UPDATE tasks.task_live l SET enqueued_at = clock_timestamp() FROM c, tasks.task t
WHERE l.task_id = c.task_id AND t.task_id = c.task_id
RETURNING l.task_id, l.work_group, l.priority, l.attempt, l.sequence, t.kind, t.owner_id, t.traceparent, now() AS at
"""

_PRUNE = """
WITH k AS (
  DELETE FROM tasks.idem WHERE (owner_id, key) IN (
    SELECT owner_id, key FROM tasks.idem WHERE expires_at <= now() LIMIT 1000 FOR UPDATE SKIP LOCKED
  ) RETURNING 1
), s AS (
  DELETE FROM tasks.worker_session s WHERE s.lease_until < now() - interval '1 hour'
    AND NOT EXISTS (SELECT 1 FROM tasks.task_live l WHERE l.session_id = s.session_id) RETURNING 1
), p AS (
  DELETE FROM tasks.prerequisite WHERE (after_id, task_id) IN (
    SELECT after_id, task_id FROM tasks.prerequisite p
    WHERE NOT EXISTS (SELECT 1 FROM tasks.task_live l WHERE l.task_id = p.task_id AND l.waits) LIMIT 1000
  ) RETURNING 1
)
SELECT (SELECT count(*) FROM k) + (SELECT count(*) FROM s) + (SELECT count(*) FROM p)
"""


class Sweeping:
    """Locks what a scan finds and lets rules decide."""

    def __init__(self, database: Database, outgoing: Outgoing) -> None:
        self._database = database
        self._outgoing = outgoing

    async def cancel(self, task_id: str, owner_id: str, decide: Decide) -> Change | None:
        """See `ports.TaskStore`."""
        async with self._outgoing.transaction() as transaction:
            rows = await transaction.pg.fetch(_LOCK_ONE, task_id, owner_id)
            changes = await apply(transaction, rows, decide)
        return changes[0] if changes else None

    async def sweep_lost(self, decide: Decide, lease_seconds: float, limit: int) -> Sequence[Change]:
        """See `ports.UpkeepStore`."""
        async with self._outgoing.transaction() as transaction:
            # By the time of this look: what becomes of the database before the next statement is for the next one.
            looked_at = await transaction.pg.fetchval(_LOOK, lease_seconds)
            rows = await transaction.pg.fetch(_LOCK_LOST, limit, looked_at)
            decided = await apply(transaction, rows, decide)
        return [change for change in decided if change is not None]

    async def sweep_overdue(
        self, time_out: Decide, stop: Decide, *, grace_seconds: float, limit: int
    ) -> Sequence[Change]:
        """See `ports.UpkeepStore`."""

        def decide(live: Live) -> Change | None:
            return stop(live) if live.cancel_asked else time_out(live)

        async with self._outgoing.transaction() as transaction:
            rows = await transaction.pg.fetch(_LOCK_OVERDUE, limit, grace_seconds)
            decided = await apply(transaction, rows, decide)
        return [change for change in decided if change is not None]

    async def release_due(self, release: Release, expire: Decide, limit: int) -> tuple[int, Sequence[Change]]:
        """See `ports.UpkeepStore`."""
        async with self._outgoing.transaction() as transaction:
            pg = transaction.pg
            timers = await pg.fetch(_TAKE_DUE, limit)
            deadlines = {row["task_id"] for row in timers if row["purpose"] == Purpose.DEADLINE}
            due = {(row["task_id"], row["attempt"]) for row in timers if row["purpose"] != Purpose.DEADLINE}
            rows = await pg.fetch(_LOCK_DUE, sorted({row["task_id"] for row in timers})) if timers else []
            waiting = [row["task_id"] for row in rows if row["waits"]]
            standings = (
                {row["task_id"]: _standing(row) for row in await pg.fetch(_STANDINGS, waiting)} if waiting else {}
            )

            def decide(live: Live) -> Change | None:
                if live.task_id in deadlines:
                    return expire(live)
                # A timer of an earlier attempt has nothing to say any more.
                is_due = live.state is State.SCHEDULED and (live.task_id, live.attempt) in due
                return release(live, standings.get(live.task_id)) if is_due else None

            decided = await apply(transaction, rows, decide)
        return len(timers), [change for change in decided if change is not None]

    async def point_again(self, queues: Sequence[tuple[str, Priority]], older_seconds: float, limit: int) -> int:
        """See `ports.UpkeepStore`."""
        groups, priorities = [group for group, _ in queues], [priority for _, priority in queues]
        async with self._outgoing.transaction() as transaction:
            rows = await transaction.pg.fetch(_POINT_AGAIN, groups, priorities, older_seconds, limit)
            await transaction.announce([_pointer(row) for row in rows])
        return len(rows)

    async def prune(self) -> int:
        """See `ports.UpkeepStore`."""
        async with self._database.statement() as pg:
            pruned: int = await pg.fetchval(_PRUNE)
        return pruned


def _standing(row: Any) -> Standing:
    return Standing(join_any=row["join_any"], named=row["named"], succeeded=row["succeeded"], failed=row["failed"])


def _pointer(row: Any) -> Notice:
    return Notice(
        task_id=row["task_id"],
        kind=row["kind"],
        owner_id=row["owner_id"],
        group=row["work_group"],
        priority=Priority(row["priority"]),
        type="",
        sequence=row["sequence"],
        attempt=row["attempt"],
        at=row["at"],
        traceparent=row["traceparent"],
        asks_for_work=True,
    )
