"""Worker sessions: leases on the database's clock, and the kinds that workers announce."""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and fixed column lists

from collections.abc import Sequence
from typing import Any

from chassis.database import Database
from services.tasks.model.states import State
from services.tasks.model.task import Change, Kind
from services.tasks.model.work import Held, Opening, Pointer, Stop
from services.tasks.ports import Decide
from services.tasks.store.changes import LIVE_COLUMNS, apply
from services.tasks.store.outgoing import Outgoing
from services.tasks.store.pointers import relane

# `sweeping` looks twice a second for leases that are over. Where nobody has looked for this long, no heartbeat could be
# heard either; see `tables.lease_watch`.
UNSEEN_SECONDS = 3
_LEASE_TIME = f"(SELECT least(clock_timestamp(), looked_at + interval '{UNSEEN_SECONDS} s') FROM tasks.lease_watch)"

# A worker that starts again announces what it announced before: only news is written, in one order for all.
_ANNOUNCE = """
INSERT INTO tasks.kind AS k (kind, work_group, max_attempts, timeout_seconds, max_running, retry_base_seconds,
                             retry_factor, retry_max_seconds, retry_jitter, announced_at)
SELECT *, now() FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::int[], $6::float8[], $7::float8[],
                            $8::float8[], $9::float8[])
  AS i(kind, work_group, max_attempts, timeout_seconds, max_running, base, factor, most, jitter)
ORDER BY kind
ON CONFLICT (kind) DO UPDATE SET work_group = excluded.work_group, max_attempts = excluded.max_attempts,
  timeout_seconds = excluded.timeout_seconds, max_running = excluded.max_running,
  retry_base_seconds = excluded.retry_base_seconds, retry_factor = excluded.retry_factor,
  retry_max_seconds = excluded.retry_max_seconds, retry_jitter = excluded.retry_jitter,
  announced_at = excluded.announced_at
WHERE (k.work_group, k.max_attempts, k.timeout_seconds, k.max_running, k.retry_base_seconds, k.retry_factor,
       k.retry_max_seconds, k.retry_jitter)
  IS DISTINCT FROM (excluded.work_group, excluded.max_attempts, excluded.timeout_seconds, excluded.max_running,
       excluded.retry_base_seconds, excluded.retry_factor, excluded.retry_max_seconds, excluded.retry_jitter)
RETURNING kind
"""

_OPEN = f"""
INSERT INTO tasks.worker_session AS s (session_id, name, host, kinds, work_groups, slots, external, opened_at, beat_at,
                                       lease_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, now(), clock_timestamp(), clock_timestamp() + make_interval(secs => $8))
ON CONFLICT (session_id) DO UPDATE SET name = excluded.name, host = excluded.host, kinds = excluded.kinds,
  work_groups = excluded.work_groups, slots = excluded.slots, external = excluded.external, draining = false,
  beat_at = excluded.beat_at, lease_until = excluded.lease_until
WHERE s.lease_until > {_LEASE_TIME}
"""

# A session that can be resumed keeps its id; its row is locked, so that no beat is lost in between.
_RESUMABLE = f"""
SELECT session_id FROM tasks.worker_session WHERE session_id = $1 AND lease_until > {_LEASE_TIME} FOR UPDATE
"""

# A lease that is over stays over: whoever sweeps may be at work already.
_BEAT = f"""
WITH s AS (
  UPDATE tasks.worker_session
  SET lease_until = clock_timestamp() + make_interval(secs => $2), beat_at = clock_timestamp(),
      watcher = coalesce($3, watcher)
  WHERE session_id = $1 AND lease_until > {_LEASE_TIME} RETURNING session_id
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

# Only as long as nobody else watches: the worker may have come back by another process a moment ago.
_SHORTEN = """
UPDATE tasks.worker_session SET lease_until = least(lease_until, clock_timestamp() + make_interval(secs => $2))
WHERE session_id = $1 AND ($3::text IS NULL OR watcher = $3)
"""

_KINDS = "SELECT kinds FROM tasks.worker_session WHERE session_id = $1 AND lease_until > clock_timestamp()"

_STOPS = """
SELECT session_id, task_id, attempt FROM tasks.task_live
WHERE session_id = ANY($1::text[]) AND cancel_at IS NOT NULL ORDER BY task_id
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

    async def open_session(self, opening: Opening, lease_seconds: float) -> str:
        """See `ports.WorkStore`."""
        kinds = sorted(opening.kinds, key=lambda kind: kind.kind)
        columns = [list(column) for column in zip(*map(_kind_row, kinds), strict=True)]
        async with self._database.driver() as pg:
            for row in await pg.fetch(_ANNOUNCE, *columns):
                await relane(pg, row["kind"])
            resumed = await pg.fetchval(_RESUMABLE, opening.resume_session_id) if opening.resume_session_id else None
            session_id: str = resumed or opening.session_id
            await pg.execute(
                _OPEN,
                session_id,
                opening.worker_name,
                opening.host,
                [kind.kind for kind in kinds],
                sorted({kind.group for kind in kinds}),
                opening.slots,
                opening.external,
                lease_seconds,
            )
        return session_id

    async def shorten(self, session_id: str, lease_seconds: float, watcher: str | None = None) -> None:
        """See `ports.WorkStore`."""
        async with self._database.statement() as pg:
            await pg.execute(_SHORTEN, session_id, lease_seconds, watcher)

    async def read_session_kinds(self, session_id: str) -> Sequence[str] | None:
        """See `ports.WorkStore`."""
        async with self._database.statement() as pg:
            kinds: Sequence[str] | None = await pg.fetchval(_KINDS, session_id)
        return kinds

    async def read_stops(self, session_ids: Sequence[str]) -> Sequence[Stop]:
        """See `ports.WorkStore`."""
        async with self._database.statement() as pg:
            rows = await pg.fetch(_STOPS, list(session_ids))
        return [
            Stop(session_id=row["session_id"], pointer=Pointer(task_id=row["task_id"], attempt=row["attempt"]))
            for row in rows
        ]

    async def beat(self, session_id: str, lease_seconds: float, watcher: str | None = None) -> Sequence[Held] | None:
        """See `ports.WorkStore`."""
        async with self._database.statement() as pg:
            rows = await pg.fetch(_BEAT, session_id, lease_seconds, watcher)
        if not rows:
            return None
        return [
            Held(task_id=row["task_id"], attempt=row["attempt"], cancel_asked=row["cancel_asked"])
            for row in rows
            if row["task_id"] is not None
        ]

    async def drain_session(self, session_id: str) -> bool:
        """See `ports.WorkStore`."""
        async with self._database.statement() as pg:
            return await pg.fetchval(_DRAIN, session_id) is not None

    async def close_session(self, session_id: str, decide: Decide) -> Sequence[Change]:
        """See `ports.WorkStore`."""
        async with self._outgoing.transaction() as transaction:
            await transaction.pg.execute(_CLOSE, session_id)
            rows = await transaction.pg.fetch(_LOCK_HELD, session_id)
            decided = await apply(transaction, rows, decide)
        return [change for change in decided if change is not None]


def _kind_row(kind: Kind) -> tuple[Any, ...]:
    retry = kind.retry
    return (
        kind.kind,
        kind.group,
        kind.max_attempts,
        kind.timeout_seconds,
        kind.max_running,
        retry.base_seconds,
        retry.factor,
        retry.max_seconds,
        retry.jitter,
    )
