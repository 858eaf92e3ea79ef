"""Figures: queue depths counted, workers listed, and tallies of what ended, per second and process, added up."""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and fixed column lists

from collections.abc import Sequence
from typing import Any

from chassis.database import Database
from services.tasks.model.figures import Channel, Depth, Rate, Tallies
from services.tasks.model.states import Priority, State
from services.tasks.model.task import Kind, RetryPolicy
from services.tasks.model.work import Worker

_KINDS = "SELECT * FROM tasks.kind ORDER BY kind"

# Only live rows are counted: the table is as large as what waits and runs. By queue, and by channel where there is one.
_DEPTHS = f"""
SELECT work_group, priority, channel, count(*) FILTER (WHERE state = {State.QUEUED:d}) AS queued,
       count(*) FILTER (WHERE state = {State.RUNNING:d}) AS running,
       count(*) FILTER (WHERE state = {State.SCHEDULED:d}) AS scheduled
FROM tasks.task_live GROUP BY GROUPING SETS ((work_group, priority), (channel))
HAVING work_group IS NOT NULL OR channel IS NOT NULL
ORDER BY work_group, priority, channel
"""

_CHANNELS = """
SELECT channel, sum(ended)::bigint AS ended, sum(failed)::bigint AS failed, max(last_at) AS last_at,
       coalesce(sum(response_seconds) FILTER (WHERE at > now() - interval '5 minutes')
         / nullif(sum(ended) FILTER (WHERE at > now() - interval '5 minutes'), 0),
         sum(response_seconds) / nullif(sum(ended), 0), 0)::float8 AS response_seconds
FROM tasks.channel_tally GROUP BY channel ORDER BY channel
"""

_WORKERS = """
SELECT s.session_id, s.name, s.host, s.kinds, s.work_groups, s.slots, s.finished, s.opened_at, s.draining, s.external,
       s.beat_at, coalesce(s.busy_seconds / nullif(s.finished, 0), 0)::float8 AS average_seconds,
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
UPDATE tasks.worker_session s SET finished = s.finished + i.n, busy_seconds = s.busy_seconds + i.seconds
FROM o JOIN unnest($1::text[], $2::bigint[], $3::float8[]) AS i(session_id, n, seconds) USING (session_id)
WHERE s.session_id = o.session_id
"""

_ADD_CHANNELS = """
INSERT INTO tasks.channel_tally AS t (at, channel, instance, ended, failed, response_seconds, last_at)
SELECT date_trunc('second', now()), c, $1, e, f, r, now()
FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::float8[]) AS i(c, e, f, r)
ON CONFLICT (at, channel, instance) DO UPDATE SET ended = t.ended + excluded.ended,
  failed = t.failed + excluded.failed, response_seconds = t.response_seconds + excluded.response_seconds,
  last_at = excluded.last_at
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

_FOLD_CHANNELS = """
WITH old AS (
  DELETE FROM tasks.channel_tally WHERE at < now() - interval '6 minutes' AND at > to_timestamp(0)
  RETURNING channel, ended, failed, response_seconds, last_at
)
INSERT INTO tasks.channel_tally AS t (at, channel, instance, ended, failed, response_seconds, last_at)
SELECT to_timestamp(0), channel, '', sum(ended), sum(failed), sum(response_seconds), max(last_at)
FROM old GROUP BY channel ORDER BY channel
ON CONFLICT (at, channel, instance) DO UPDATE SET ended = t.ended + excluded.ended,
  failed = t.failed + excluded.failed, response_seconds = t.response_seconds + excluded.response_seconds,
  last_at = greatest(t.last_at, excluded.last_at)
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
        async with self._database.statement() as pg:
            return [_kind(row) for row in await pg.fetch(_KINDS)]

    async def read_depths(self) -> tuple[Sequence[Depth], Sequence[Channel]]:
        """See `ports.UpkeepStore`."""
        async with self._database.statement() as pg:
            rows = await pg.fetch(_DEPTHS)
            measured = await pg.fetch(_CHANNELS)
        depths = [
            Depth(
                group=row["work_group"],
                priority=Priority(row["priority"]),
                queued=row["queued"],
                running=row["running"],
                scheduled=row["scheduled"],
            )
            for row in rows
            if row["work_group"] is not None
        ]
        return depths, _channels([row for row in rows if row["channel"] is not None], measured)

    async def read_workers(self) -> Sequence[Worker]:
        """See `ports.UpkeepStore`."""
        async with self._database.statement() as pg:
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
                external=row["external"],
                beat_at=row["beat_at"],
                average_seconds=row["average_seconds"],
            )
            for row in rows
        ]

    async def add_tallies(self, instance: str, tallies: Tallies) -> None:
        """See `ports.UpkeepStore`."""
        async with self._database.driver() as pg:
            await pg.execute(
                _ADD,
                instance,
                [tally.group for tally in tallies.groups],
                [tally.ended for tally in tallies.groups],
                [tally.failed for tally in tallies.groups],
                [tally.busy_seconds for tally in tallies.groups],
            )
            if channels := tallies.channels:
                await pg.execute(
                    _ADD_CHANNELS,
                    instance,
                    [tally.channel for tally in channels],
                    [tally.ended for tally in channels],
                    [tally.failed for tally in channels],
                    [tally.response_seconds for tally in channels],
                )
            ordered = sorted((session_id, n, seconds) for session_id, (n, seconds) in tallies.sessions.items())
            if ordered:
                await pg.execute(_ADD_FINISHED, *(list(column) for column in zip(*ordered, strict=True)))

    async def fold_tallies(self) -> None:
        """See `ports.UpkeepStore`."""
        async with self._database.driver() as pg:
            await pg.execute(_FOLD)
            await pg.execute(_FOLD_CHANNELS)

    async def read_rates(self) -> Sequence[Rate]:
        """See `ports.UpkeepStore`."""
        async with self._database.statement() as pg:
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


def _kind(row: Any) -> Kind:
    return Kind(
        kind=row["kind"],
        group=row["work_group"],
        max_attempts=row["max_attempts"],
        timeout_seconds=row["timeout_seconds"],
        max_running=row["max_running"],
        retry=RetryPolicy(
            base_seconds=row["retry_base_seconds"],
            factor=row["retry_factor"],
            max_seconds=row["retry_max_seconds"],
            jitter=row["retry_jitter"],
        ),
    )


def _channels(live: Sequence[Any], measured: Sequence[Any]) -> list[Channel]:
    now = {row["channel"]: row for row in live}
    past = {row["channel"]: row for row in measured}
    return [
        Channel(
            channel=name,
            waiting=now[name]["queued"] + now[name]["scheduled"] if name in now else 0,
            running=now[name]["running"] if name in now else 0,
            response_seconds=past[name]["response_seconds"] if name in past else 0.0,
            ended=past[name]["ended"] if name in past else 0,
            failed=past[name]["failed"] if name in past else 0,
            last_at=past[name]["last_at"] if name in past else None,
        )
        for name in sorted({*now, *past})
    ]
