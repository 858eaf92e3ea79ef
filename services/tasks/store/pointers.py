"""Pointers on their way to the broker: picked owner by owner, published inside of the transaction that deletes them.

One process at a time does this, so that a bound on what is published ahead and the places of a kind are counted once.
"""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and of this module

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from chassis.database import Database, DriverConnection
from services.tasks.model.states import Priority, State
from services.tasks.model.work import Queue, WaitingPointer
from services.tasks.ports import Publish
from services.tasks.store.outgoing import pointers_to

LOCK_KEY = 0x54534B504E5452
# Block and number of a row in its table.
Row: TypeAlias = tuple[int, int]
# More owners than this in one queue take turns by rounds.
_MOST_OWNERS = 200

# For each queue its owners, found by leaps through the key and not by reading all rows; of each owner an equal share;
# then first everybody's first, everybody's second, and so on, as many as the queue may take.
_PICK = f"""
WITH RECURSIVE q AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::int[], $5::text[])
    AS q(lane, work_group, priority, most, after_owner)
), o AS (
  SELECT q.lane, q.work_group, q.priority, q.most, f.owner_id, 1 AS n FROM q CROSS JOIN LATERAL (
    SELECT p.owner_id FROM tasks.pointer p
    WHERE p.lane = q.lane AND p.work_group = q.work_group AND p.priority = q.priority AND p.owner_id > q.after_owner
    ORDER BY p.owner_id LIMIT 1) f
  UNION ALL
  SELECT o.lane, o.work_group, o.priority, o.most, f.owner_id, o.n + 1 FROM o CROSS JOIN LATERAL (
    SELECT p.owner_id FROM tasks.pointer p
    WHERE p.lane = o.lane AND p.work_group = o.work_group AND p.priority = o.priority AND p.owner_id > o.owner_id
    ORDER BY p.owner_id LIMIT 1) f
  WHERE o.n < {_MOST_OWNERS}
), w AS (
  SELECT o.*, count(*) OVER (PARTITION BY work_group, priority) AS owners FROM o
), r AS (
  SELECT w.most, p.*, row_number() OVER (PARTITION BY p.work_group, p.priority, p.owner_id ORDER BY p.seq) AS turn
  FROM w CROSS JOIN LATERAL (
    SELECT p.ctid AS row, p.* FROM tasks.pointer p
    WHERE p.lane = w.lane AND p.work_group = w.work_group AND p.priority = w.priority AND p.owner_id = w.owner_id
    ORDER BY p.seq LIMIT (w.most + w.owners - 1) / w.owners) p
), t AS (
  SELECT r.*, row_number() OVER (PARTITION BY work_group, priority ORDER BY turn, owner_id) AS place FROM r
)
SELECT row, work_group, priority, owner_id, seq, task_id, attempt, traceparent, at FROM t WHERE place <= most
ORDER BY priority DESC, place
"""

# By where each was picked, a moment ago in this transaction: to look it up by its key once more costs three times as
# much. By its number too, since the place of a row that is gone may be another's.
_DELETE = """
DELETE FROM tasks.pointer p USING unnest($1::tid[], $2::bigint[]) AS i(row, seq)
WHERE p.ctid = i.row AND p.seq = i.seq AND p.ctid = ANY($1::tid[])
"""

# All pointers of a row are settled together. Where some are missing it stays, and is recalled: a repeated pointer does
# no harm. What was refused waits for its turn from here on, unless somebody has recalled it.
_SETTLE_DIRECT = """
WITH d AS (
  DELETE FROM tasks.direct d USING unnest($1::bigint[], $2::int[]) AS i(seq, pointers)
  WHERE d.seq = i.seq AND d.seq = ANY($1::bigint[]) AND cardinality(d.task_ids) = i.pointers RETURNING d.seq
)
INSERT INTO tasks.pointer (lane, work_group, priority, owner_id, task_id, attempt, traceparent, at)
SELECT '', work_group, priority, owner_id, task_id, attempt, traceparent, at
FROM unnest($3::bigint[], $4::text[], $5::smallint[], $6::text[], $7::text[], $8::int[], $9::text[], $10::timestamptz[])
  WITH ORDINALITY AS i(seq, work_group, priority, owner_id, task_id, attempt, traceparent, at, number)
JOIN d USING (seq)
ORDER BY number
"""

# Whose publisher is gone, as far as they still wait.
_RECALL = f"""
WITH d AS (
  DELETE FROM tasks.direct WHERE at <= clock_timestamp() - make_interval(secs => $1) RETURNING at, task_ids
), m AS (
  SELECT l.task_id, l.work_group, l.priority, l.attempt, t.owner_id, t.kind, t.traceparent, d.at
  FROM d CROSS JOIN LATERAL unnest(d.task_ids) AS u(task_id) CROSS JOIN LATERAL (
    SELECT * FROM tasks.task_live l
    WHERE l.task_id = u.task_id AND l.state = {State.QUEUED:d} AND l.attempt = 0 OFFSET 0
  ) AS l CROSS JOIN LATERAL (SELECT * FROM tasks.task t WHERE t.task_id = l.task_id OFFSET 0) AS t
  ORDER BY l.task_id
)
{pointers_to("m")} RETURNING seq
"""

# A process of the release before keeps such pointers in a lane of this table, and may die while this one runs already.
_RECALL_OLD = """
UPDATE tasks.pointer SET lane = ''
WHERE lane = '>' AND at <= clock_timestamp() - make_interval(secs => $1) RETURNING seq
"""

# A place is over when its attempt is: neither on its way to a worker nor with one.
_FREE_PLACES = f"""
DELETE FROM tasks.kind_place p WHERE p.task_id <> '' AND NOT EXISTS (
  SELECT 1 FROM tasks.task_live l WHERE l.task_id = p.task_id AND (
    (l.state = {State.QUEUED:d} AND l.attempt = p.attempt)
    OR (l.state = {State.RUNNING:d} AND l.attempt = p.attempt + 1))
  OFFSET 0
)
"""

_WAITING = """
SELECT EXISTS (SELECT 1 FROM tasks.kind k
               WHERE k.max_running > 0 AND EXISTS (SELECT 1 FROM tasks.pointer p WHERE p.lane = k.kind OFFSET 0))
"""

# Of other groups than the kind's are those whose writers had not seen yet that it moved.
_BOUNDS = """
SELECT k.kind, k.max_running - (SELECT count(*) FROM tasks.kind_place p WHERE p.kind = k.kind) AS free,
       k.work_group || ARRAY(
         SELECT p.work_group FROM tasks.pointer p WHERE p.lane = k.kind AND p.work_group < k.work_group
         ORDER BY p.work_group LIMIT 1
       ) || ARRAY(
         SELECT p.work_group FROM tasks.pointer p WHERE p.lane = k.kind AND p.work_group > k.work_group
         ORDER BY p.work_group LIMIT 1
       ) AS groups
FROM tasks.kind k
WHERE k.max_running > 0 AND EXISTS (SELECT 1 FROM tasks.pointer p WHERE p.lane = k.kind OFFSET 0)
  AND NOT EXISTS (SELECT 1 FROM tasks.kind_place p WHERE p.kind = k.kind AND p.task_id = '')
"""

# A task may have two pointers, one of an attempt that is over: a repeated one does no harm.
_TAKE_PLACES = """
INSERT INTO tasks.kind_place AS p (kind, task_id, attempt)
SELECT $1, task_id, max(attempt) FROM unnest($2::text[], $3::int[]) AS i(task_id, attempt) GROUP BY task_id
ON CONFLICT (kind, task_id) DO UPDATE SET attempt = greatest(p.attempt, excluded.attempt)
"""

_GRANT = f"""
WITH m AS ({_DELETE} RETURNING p.*)
INSERT INTO tasks.pointer (lane, work_group, priority, owner_id, task_id, attempt, traceparent, at)
SELECT '', work_group, priority, owner_id, task_id, attempt, traceparent, at FROM m ORDER BY seq
"""

# A bound that came, changed or went. Of what is on its way to a worker as much keeps its place as there are; then
# pointers change lanes. What arrives at a claim without a place waits in the lane from then on.
_TAKE_BACK = f"""
DELETE FROM tasks.kind_place p USING (
  SELECT h.task_id, l.state,
         row_number() OVER (ORDER BY l.state = {State.RUNNING:d} DESC NULLS LAST, h.task_id) AS number
  FROM tasks.kind_place h LEFT JOIN tasks.task_live l USING (task_id) WHERE h.kind = $1 AND h.task_id <> ''
) AS h
WHERE p.kind = $1 AND p.task_id = h.task_id AND h.state IS DISTINCT FROM {State.RUNNING:d}
  AND h.number > (SELECT max_running FROM tasks.kind WHERE kind = $1)
"""
_LANE = """
CASE WHEN k.max_running > 0 AND NOT EXISTS (
  SELECT 1 FROM tasks.kind_place h WHERE h.kind = k.kind AND h.task_id = p.task_id AND h.attempt = p.attempt
) THEN k.kind ELSE '' END
"""
_RELANE = f"""
UPDATE tasks.pointer p SET lane = {_LANE}, work_group = k.work_group
FROM tasks.task t JOIN tasks.kind k USING (kind)
WHERE k.kind = $1 AND t.task_id = p.task_id AND p.lane IN ('', k.kind)
  AND (p.lane, p.work_group) IS DISTINCT FROM ({_LANE}, k.work_group)
"""
# Claims under way do not see the bound yet. Until they are over no place is given: a place of no task stands for that.
_HOLD_PLACES = """
INSERT INTO tasks.kind_place (kind, task_id, attempt)
SELECT kind, '', 0 FROM tasks.kind WHERE kind = $1 AND max_running > 0
ON CONFLICT (kind, task_id) DO UPDATE SET attempt = 0
"""
# Nobody looks at a state from before the announcement any more. Whoever does so for longer is no claim: those end after
# ten seconds (`DATABASE_STATEMENT_TIMEOUT`).
_SETTLED = """
SELECT k.kind FROM tasks.kind_place p JOIN tasks.kind k USING (kind)
WHERE p.task_id = '' AND k.max_running > 0 AND (k.announced_at < clock_timestamp() - interval '15 s' OR NOT EXISTS (
  SELECT 1 FROM pg_stat_activity a
  WHERE a.datname = current_database() AND a.usename = current_user AND a.pid <> pg_backend_pid()
    AND age(a.backend_xmin) >= age(p.xmin)
))
"""
# What runs takes its places, whether there are as many or not.
_SEED_PLACES = f"""
WITH h AS (DELETE FROM tasks.kind_place WHERE kind = ANY($1::text[]) AND task_id = '')
INSERT INTO tasks.kind_place (kind, task_id, attempt)
SELECT t.kind, l.task_id, l.attempt - 1 FROM tasks.task_live l JOIN tasks.task t USING (task_id)
WHERE t.kind = ANY($1::text[]) AND l.session_id IS NOT NULL AND l.state = {State.RUNNING:d}
ON CONFLICT (kind, task_id) DO UPDATE SET attempt = excluded.attempt
"""

# Lanes of kinds that have no bound any more: who wrote to them had not seen yet that it went.
_STRAY = """
WITH RECURSIVE l AS (
  (SELECT lane FROM tasks.pointer WHERE lane > '' ORDER BY lane LIMIT 1)
  UNION ALL
  SELECT n.lane FROM l CROSS JOIN LATERAL (
    SELECT p.lane FROM tasks.pointer p WHERE p.lane > l.lane ORDER BY p.lane LIMIT 1) n
)
SELECT lane FROM l
WHERE lane <> '>' AND NOT EXISTS (SELECT 1 FROM tasks.kind k WHERE k.kind = l.lane AND k.max_running > 0)
"""
_UNBOUND = "UPDATE tasks.pointer SET lane = '' WHERE lane = ANY($1::text[]) RETURNING seq"


async def relane(pg: DriverConnection, kind: str) -> None:
    """Puts the pointers of a kind where its bound wants them, after its announcement in the same transaction."""
    await _lock(pg)
    await pg.execute(_TAKE_BACK, kind)
    await pg.execute(_RELANE, kind)
    await pg.execute(_HOLD_PLACES, kind)


async def _lock(pg: DriverConnection) -> None:
    await pg.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)


class Pointers:
    """Hands pointers out."""

    def __init__(self, database: Database) -> None:
        self._hot = database

    async def feed(self, queues: Sequence[Queue], publish: Publish) -> Sequence[WaitingPointer] | None:
        """See `ports.PointerStore`."""
        async with self._hot.driver() as pg:
            if not await pg.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
                return None
            picked = await _pick(pg, queues)
            if not picked:
                return []
            outcomes = await publish([one for one, _ in picked])
            taken = [pair for pair, ok in zip(picked, outcomes, strict=True) if ok]
            await pg.execute(_DELETE, *_rows(taken))
        return [one for one, _ in taken]

    async def settle_direct(self, counts: Mapping[int, int], refused: Sequence[WaitingPointer]) -> None:
        """See `ports.PointerStore`."""
        waiting = [
            [one.seq for one in refused],
            [one.group for one in refused],
            [one.priority for one in refused],
            [one.owner_id for one in refused],
            [one.task_id for one in refused],
            [one.attempt for one in refused],
            [one.traceparent for one in refused],
            [one.at for one in refused],
        ]
        async with self._hot.statement() as pg:
            await pg.execute(_SETTLE_DIRECT, list(counts), list(counts.values()), *waiting)

    async def recall_direct(self, older_seconds: float) -> int:
        """See `ports.PointerStore`."""
        async with self._hot.statement() as pg:
            recalled = sum([len(await pg.fetch(recall, older_seconds)) for recall in (_RECALL, _RECALL_OLD)])
            stray = [row["lane"] for row in await pg.fetch(_STRAY)]
        if stray:
            async with self._hot.driver() as pg:
                await _lock(pg)
                recalled += len(await pg.fetch(_UNBOUND, stray))
        return recalled

    async def grant_places(self) -> bool:
        """See `ports.PointerStore`."""
        async with self._hot.driver() as pg:
            if not await pg.fetchval(_WAITING):
                return False
            await _lock(pg)
            if settled := [row["kind"] for row in await pg.fetch(_SETTLED)]:
                await pg.execute(_SEED_PLACES, settled)
            await pg.execute(_FREE_PLACES)
            for row in await pg.fetch(_BOUNDS):
                await _grant(pg, row["kind"], row["groups"], max(row["free"], 0))
        return True


async def _grant(pg: DriverConnection, kind: str, groups: Sequence[str], free: int) -> None:
    queues = [Queue(lane=kind, group=group, priority=priority, most=free) for group in groups for priority in Priority]
    chosen = (await _pick(pg, queues))[:free]
    if chosen:
        await pg.execute(_TAKE_PLACES, kind, [one.task_id for one, _ in chosen], [one.attempt for one, _ in chosen])
        await pg.execute(_GRANT, *_rows(chosen))


async def _pick(pg: DriverConnection, queues: Sequence[Queue]) -> list[tuple[WaitingPointer, Row]]:
    rows = await pg.fetch(
        _PICK,
        [queue.lane for queue in queues],
        [queue.group for queue in queues],
        [queue.priority for queue in queues],
        [queue.most for queue in queues],
        [queue.after_owner for queue in queues],
    )
    asked = {(queue.group, int(queue.priority)): queue for queue in queues}
    return [(_waiting(row, asked[row["work_group"], row["priority"]]), row["row"]) for row in rows]


def _waiting(row: Any, queue: Queue) -> WaitingPointer:
    return WaitingPointer(
        lane=queue.lane,
        group=queue.group,
        priority=queue.priority,
        owner_id=row["owner_id"],
        seq=row["seq"],
        task_id=row["task_id"],
        attempt=row["attempt"],
        traceparent=row["traceparent"],
        at=row["at"],
    )


def _rows(picked: Sequence[tuple[WaitingPointer, Row]]) -> tuple[list[Row], list[int]]:
    return [row for _, row in picked], [one.seq for one, _ in picked]
