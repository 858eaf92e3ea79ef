"""T13: a task that ended badly is live again. Its end moves to the dead letters; its feed and attempts go on."""

from chassis.database import Database
from chassis.errors import Conflict
from services.tasks.model.task import Change, Revival, notice_of
from services.tasks.ports import Decide
from services.tasks.store.changes import to_live
from services.tasks.store.linking import find_holders
from services.tasks.store.outgoing import Outgoing

_LOCK = """
SELECT r.task_id, t.owner_id, t.kind, t.work_group, t.priority, r.state, r.attempt, r.max_attempts, 0 AS lost,
       (SELECT max(e.sequence) FROM tasks.task_event e WHERE e.task_id = $1) AS sequence,
       NULL AS session_id, false AS cancel_asked, r.started_at, false AS waits, $2::text AS channel, t.labels,
       t.traceparent, t.created_at, t.run_at, clock_timestamp() AS now
FROM tasks.task_result r JOIN tasks.task t USING (task_id) WHERE r.task_id = $1 AND t.task_id = $1 FOR UPDATE OF r
"""

# Somebody may still wait for it since its first life.
_REVIVE = """
WITH r AS (
  DELETE FROM tasks.task_result WHERE task_id = $1 RETURNING *
), b AS (
  INSERT INTO tasks.dead_letter (task_id, attempt, error_code, error_message, at)
  SELECT task_id, attempt, coalesce(error_code, ''), coalesce(error_message, ''), finished_at FROM r
  ON CONFLICT DO NOTHING
), l AS (
  INSERT INTO tasks.task_live (task_id, state, work_group, priority, attempt, max_attempts, sequence, enqueued_at,
                               unique_digest, channel, partial, awaited)
  SELECT task_id, $2, $3, $4, attempt, $5, $6, $7, $8, nullif($9, ''), partial, true FROM r
)
INSERT INTO tasks.task_event (task_id, sequence, type, attempt, at, data)
SELECT task_id, $6, $10, attempt, $7, $11 FROM r
"""


class Requeueing:
    """The operator's part of `ports.TaskStore`."""

    def __init__(self, database: Database, outgoing: Outgoing) -> None:
        self._database = database
        self._outgoing = outgoing

    async def requeue(self, revival: Revival, decide: Decide) -> Change | None:
        """See `ports.TaskStore`."""
        async with self._outgoing.transaction() as transaction:
            pg = transaction.pg
            if revival.unique_digest is not None and await find_holders(pg, [revival.unique_digest]):
                raise Conflict("Another live task has its unique key", code="UNIQUE_KEY_TAKEN")
            row = await pg.fetchrow(_LOCK, revival.task_id, revival.channel)
            change = None if row is None else decide(to_live(row))
            if change is None:
                return None
            live = change.live
            await pg.execute(
                _REVIVE,
                live.task_id,
                change.to,
                live.group,
                live.priority,
                change.max_attempts,
                change.sequence,
                live.now,
                revival.unique_digest,
                revival.channel,
                change.event,
                change.data,
            )
            await transaction.announce([notice_of(change)])
        return change
