"""Figures: queue depths counted, workers listed, and tallies of what ended, per second and process, added up."""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and fixed column lists

from collections.abc import Mapping, Sequence

from chassis.database import Database
from services.tasks.model.figures import Depth, Rate, Tally
from services.tasks.model.states import Priority, State
from services.tasks.model.task import Kind
from services.tasks.model.work import Worker

_KINDS = 'SELECT kind, work_group AS "group", max_attempts, timeout_seconds FROM tasks.kind ORDER BY kind'

# Only live rows are counted: the table is as large as what waits and runs.
_DEPTHS = f"""
SELECT work_group, priority, count(*) FILTER (WHERE state = {State.QUEUED:d}) AS queued,
       count(*) FILTER (WHERE state = {State.RUNNING:d}) AS running
FROM tasks.task_live GROUP BY work_group, priority ORDER BY work_group, priority
"""

_WORKERS = """
SELECT s.session_id, s.name, s.host, s.kinds, s.work_groups, s.slots, s.finished, s.opened_at, s.draining,
       (SELECT count(*) FROM tasks.task_live l WHERE l.session_id = s.session_id) AS running
FROM tasks.worker_session s WHERE s.lease_until > clock_timestamp() ORDER BY s.name, s.session_id
"""

_ADD = """
INSERT INTO tasks.tally AS t (at, work_group, instance, ended, failed, busy_seconds)
SELECT date_trunc('second', now()), g, $1, e, f, b
FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::float8[]) AS i(g, e, f, b)
ON CONFLICT (at, work_group, instance) DO UPDATE SET ended = t.ended + excluded.ended,
  failed = t.failed + excluded.failed, busy_seconds = t.busy_seconds + excluded.busy_seconds
"""

# Locked in one order, because other processes add to the same sessions.
_ADD_FINISHED = """
WITH o AS (
  SELECT session_id FROM tasks.worker_session WHERE session_id = ANY($1::text[])
  ORDER BY session_id FOR NO KEY UPDATE
)
UPDATE tasks.worker_session s SET finished = s.finished + i.n
FROM o JOIN unnest($1::text[], $2::bigint[]) AS i(session_id, n) USING (session_id)
WHERE s.session_id = o.session_id
"""

# The epoch's row holds the totals of all seconds that the rate needs no longer, of every process that ever was.
_FOLD = """
WITH old AS (
  DELETE FROM tasks.tally WHERE at < now() - interval '2 minutes' AND at > to_timestamp(0)
  RETURNING work_group, ended, failed, busy_seconds
)
INSERT INTO tasks.tally AS t (at, work_group, instance, ended, failed, busy_seconds)
SELECT to_timestamp(0), work_group, '', sum(ended), sum(failed), sum(busy_seconds) FROM old GROUP BY work_group
ORDER BY work_group
ON CONFLICT (at, work_group, instance) DO UPDATE SET ended = t.ended + excluded.ended,
  failed = t.failed + excluded.failed, busy_seconds = t.busy_seconds + excluded.busy_seconds
"""

_RATES = """
SELECT work_group, sum(ended)::bigint AS ended, sum(failed)::bigint AS failed,
       coalesce(sum(ended) FILTER (WHERE at > now() - interval '1 minute'), 0)::float8 / 60 AS ended_per_second,
       coalesce(sum(busy_seconds) FILTER (WHERE at > now() - interval '1 minute')
         / nullif(sum(ended) FILTER (WHERE at > now() - interval '1 minute'), 0),
         sum(busy_seconds) / nullif(sum(ended), 0), 0)::float8 AS mean_run_seconds
FROM tasks.tally GROUP BY work_group ORDER BY work_group
"""


class Figures:
    """Counts and lists."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_kinds(self) -> Sequence[Kind]:
        """See `ports.UpkeepStore`."""
        async with self._database.driver() as pg:
            return [Kind(**dict(row)) for row in await pg.fetch(_KINDS)]

    async def read_depths(self) -> Sequence[Depth]:
        """See `ports.UpkeepStore`."""
        async with self._database.driver() as pg:
            rows = await pg.fetch(_DEPTHS)
        return [
            Depth(
                group=row["work_group"],
                priority=Priority(row["priority"]),
                queued=row["queued"],
                running=row["running"],
            )
            for row in rows
        ]

    async def read_workers(self) -> Sequence[Worker]:
        """See `ports.UpkeepStore`."""
        async with self._database.driver() as pg:
            rows = await pg.fetch(_WORKERS)
        return [
            Worker(
                session_id=row["session_id"],
                name=row["name"],
                host=row["host"],
                kinds=tuple(row["kinds"]),
                groups=tuple(row["work_groups"]),
                slots=row["slots"],
                running=row["running"],
                finished=row["finished"],
                opened_at=row["opened_at"],
                draining=row["draining"],
            )
            for row in rows
        ]

    async def add_tallies(self, instance: str, tallies: Sequence[Tally], sessions: Mapping[str, int]) -> None:
        """See `ports.UpkeepStore`."""
        async with self._database.driver() as pg:
            await pg.execute(
                _ADD,
                instance,
                [tally.group for tally in tallies],
                [tally.ended for tally in tallies],
                [tally.failed for tally in tallies],
                [tally.busy_seconds for tally in tallies],
            )
            ordered = sorted(sessions.items())
            await pg.execute(_ADD_FINISHED, [session for session, _ in ordered], [n for _, n in ordered])

    async def fold_tallies(self) -> None:
        """See `ports.UpkeepStore`."""
        async with self._database.driver() as pg:
            await pg.execute(_FOLD)

    async def read_rates(self) -> Sequence[Rate]:
        """See `ports.UpkeepStore`."""
        async with self._database.driver() as pg:
            rows = await pg.fetch(_RATES)
        return [
            Rate(
                group=row["work_group"],
                ended_per_second=row["ended_per_second"],
                mean_run_seconds=row["mean_run_seconds"],
                ended=row["ended"],
                failed=row["failed"],
            )
            for row in rows
        ]
