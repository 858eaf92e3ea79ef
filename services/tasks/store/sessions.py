"""Worker sessions: leases on the database's clock, and the kinds that workers announce."""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and fixed column lists

from collections.abc import Sequence

from chassis.database import Database
from services.tasks.model.states import State
from services.tasks.model.task import Change
from services.tasks.model.work import Held, Opening
from services.tasks.ports import Decide
from services.tasks.store.changes import LIVE_COLUMNS, apply
from services.tasks.store.outgoing import Outgoing

# A worker that starts again announces what it announced before: only news is written, in one order for all.
_ANNOUNCE = """
INSERT INTO tasks.kind AS k (kind, work_group, max_attempts, timeout_seconds, announced_at)
SELECT *, now() FROM unnest($1::text[], $2::text[], $3::int[], $4::int[])
  AS i(kind, work_group, max_attempts, timeout_seconds)
ORDER BY kind
ON CONFLICT (kind) DO UPDATE SET work_group = excluded.work_group, max_attempts = excluded.max_attempts,
  timeout_seconds = excluded.timeout_seconds, announced_at = excluded.announced_at
WHERE (k.work_group, k.max_attempts, k.timeout_seconds)
  IS DISTINCT FROM (excluded.work_group, excluded.max_attempts, excluded.timeout_seconds)
"""

_OPEN = """
INSERT INTO tasks.worker_session (session_id, name, host, kinds, work_groups, slots, opened_at, lease_until)
VALUES ($1, $2, $3, $4, $5, $6, now(), clock_timestamp() + make_interval(secs => $7))
"""

# A lease that is over stays over: whoever sweeps may be at work already.
_BEAT = """
WITH s AS (
  UPDATE tasks.worker_session SET lease_until = clock_timestamp() + make_interval(secs => $2)
  WHERE session_id = $1 AND lease_until > clock_timestamp() RETURNING session_id
)
SELECT s.session_id, l.task_id, l.attempt, l.cancel_at IS NOT NULL AS cancel_asked
FROM s LEFT JOIN tasks.task_live l ON l.session_id = s.session_id ORDER BY l.task_id
"""

_DRAIN = """
UPDATE tasks.worker_session SET draining = true
WHERE session_id = $1 AND lease_until > clock_timestamp() RETURNING session_id
"""

_CLOSE = """
UPDATE tasks.worker_session SET draining = true, lease_until = least(lease_until, clock_timestamp())
WHERE session_id = $1
"""

_LOCK_HELD = f"""
SELECT {LIVE_COLUMNS} FROM tasks.task_live l JOIN tasks.task t USING (task_id)
WHERE l.session_id = $1 AND l.state = {State.RUNNING:d} ORDER BY l.task_id FOR UPDATE OF l
"""


class Sessions:
    """The sessions' part of the workers' side."""

    def __init__(self, database: Database, outgoing: Outgoing) -> None:
        self._database = database
        self._outgoing = outgoing

    async def open_session(self, opening: Opening, lease_seconds: float) -> None:
        """See `ports.WorkStore`."""
        kinds = sorted(opening.kinds, key=lambda kind: kind.kind)
        names, groups = [kind.kind for kind in kinds], [kind.group for kind in kinds]
        async with self._database.driver() as pg:
            await pg.execute(
                _ANNOUNCE, names, groups, [k.max_attempts for k in kinds], [k.timeout_seconds for k in kinds]
            )
            await pg.execute(
                _OPEN,
                opening.session_id,
                opening.worker_name,
                opening.host,
                names,
                sorted(set(groups)),
                opening.slots,
                lease_seconds,
            )

    async def beat(self, session_id: str, lease_seconds: float) -> Sequence[Held] | None:
        """See `ports.WorkStore`."""
        async with self._database.driver() as pg:
            rows = await pg.fetch(_BEAT, session_id, lease_seconds)
        if not rows:
            return None
        return [
            Held(task_id=row["task_id"], attempt=row["attempt"], cancel_asked=row["cancel_asked"])
            for row in rows
            if row["task_id"] is not None
        ]

    async def drain_session(self, session_id: str) -> bool:
        """See `ports.WorkStore`."""
        async with self._database.driver() as pg:
            return await pg.fetchval(_DRAIN, session_id) is not None

    async def close_session(self, session_id: str, decide: Decide) -> Sequence[Change]:
        """See `ports.WorkStore`."""
        async with self._outgoing.transaction() as transaction:
            await transaction.pg.execute(_CLOSE, session_id)
            rows = await transaction.pg.fetch(_LOCK_HELD, session_id)
            decided = await apply(transaction, rows, decide)
        return [change for change in decided if change is not None]
