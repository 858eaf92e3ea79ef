"""Pointers on their way to the broker: picked owner by owner, published inside of the transaction that deletes them.

One process at a time does this, so that a bound on what is published ahead and the places of a kind are counted once.
"""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and of this module

from collections.abc import Sequence
from typing import Any

from chassis.database import Database, DriverConnection
from services.tasks.model.states import Priority, State
from services.tasks.model.work import DIRECT_LANE, Queue, WaitingPointer
from services.tasks.ports import Publish

LOCK_KEY = 0x54534B504E5452
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
    SELECT p.* FROM tasks.pointer p
    WHERE p.lane = w.lane AND p.work_group = w.work_group AND p.priority = w.priority AND p.owner_id = w.owner_id
    ORDER BY p.seq LIMIT (w.most + w.owners - 1) / w.owners) p
), t AS (
  SELECT r.*, row_number() OVER (PARTITION BY work_group, priority ORDER BY turn, owner_id) AS place FROM r
)
SELECT work_group, priority, owner_id, seq, task_id, attempt, traceparent, at FROM t WHERE place <= most
ORDER BY priority DESC, place
"""

# Each is looked up by its key, and the table is not read through for a batch, however long it is. A row that changes
# its lane at this moment is left where it is: it is somebody else's then, and a repeated pointer does no harm.
_KEYED = """ctid = ANY(ARRAY(
  SELECT f.ctid FROM unnest($1::text[], $2::text[], $3::smallint[], $4::text[], $5::bigint[])
    AS i(lane, work_group, priority, owner_id, seq)
  CROSS JOIN LATERAL (
    SELECT p.ctid FROM tasks.pointer p
    WHERE p.lane = i.lane AND p.work_group = i.work_group AND p.priority = i.priority AND p.owner_id = i.owner_id
      AND p.seq = i.seq OFFSET 0
  ) AS f
))"""
_DELETE = f"DELETE FROM tasks.pointer p WHERE {_KEYED}"
_TO_FEEDER = f"UPDATE tasks.pointer p SET lane = '' WHERE {_KEYED}"
_RECALL = f"""
UPDATE tasks.pointer SET lane = ''
WHERE lane = '{DIRECT_LANE}' AND at <= clock_timestamp() - make_interval(secs => $1) RETURNING seq
"""

# A place is over when its attempt is: neither on its way to a worker nor with one.
_FREE_PLACES = f"""
DELETE FROM tasks.kind_place p WHERE NOT EXISTS (
  SELECT 1 FROM tasks.task_live l WHERE l.task_id = p.task_id AND (
    (l.state = {State.QUEUED:d} AND l.attempt = p.attempt)
    OR (l.state = {State.RUNNING:d} AND l.attempt = p.attempt + 1))
  OFFSET 0
)
"""

_BOUNDS = """
SELECT k.kind, k.work_group, k.max_running - (SELECT count(*) FROM tasks.kind_place p WHERE p.kind = k.kind) AS free
FROM tasks.kind k
WHERE k.max_running > 0 AND EXISTS (SELECT 1 FROM tasks.pointer p WHERE p.lane = k.kind OFFSET 0)
"""

_TAKE_PLACES = """
INSERT INTO tasks.kind_place (kind, task_id, attempt) SELECT $1, * FROM unnest($2::text[], $3::int[])
ON CONFLICT (kind, task_id) DO UPDATE SET attempt = excluded.attempt
"""

_GRANT = f"""
WITH m AS ({_DELETE} RETURNING p.*)
INSERT INTO tasks.pointer (lane, work_group, priority, owner_id, task_id, attempt, traceparent, at)
SELECT '', work_group, priority, owner_id, task_id, attempt, traceparent, at FROM m ORDER BY seq
"""

# A bound that came, changed or went: pointers change lanes, and what is under way takes its places.
_RELANE = """
UPDATE tasks.pointer p SET lane = CASE WHEN k.max_running > 0 THEN k.kind ELSE '' END, work_group = k.work_group
FROM tasks.task t JOIN tasks.kind k USING (kind)
WHERE k.kind = $1 AND t.task_id = p.task_id AND p.lane IN ('', k.kind)
  AND p.lane <> CASE WHEN k.max_running > 0 THEN k.kind ELSE '' END
"""
_SEED_PLACES = f"""
INSERT INTO tasks.kind_place (kind, task_id, attempt)
SELECT t.kind, l.task_id, CASE l.state WHEN {State.RUNNING:d} THEN l.attempt - 1 ELSE l.attempt END
FROM tasks.task_live l JOIN tasks.task t USING (task_id) JOIN tasks.kind k USING (kind)
WHERE t.kind = $1 AND k.max_running > 0 AND l.state IN ({State.QUEUED:d}, {State.RUNNING:d})
  AND NOT EXISTS (SELECT 1 FROM tasks.pointer p WHERE p.task_id = l.task_id AND p.lane <> '{DIRECT_LANE}')
ON CONFLICT (kind, task_id) DO NOTHING
"""


async def relane(pg: DriverConnection, kind: str) -> None:
    """Puts the pointers of a kind where its bound wants them, after its announcement in the same transaction."""
    await pg.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
    await pg.execute(_RELANE, kind)
    await pg.execute(_SEED_PLACES, kind)


class Pointers:
    """Hands pointers out."""

    def __init__(self, database: Database) -> None:
        self._hot = database

    async def feed(self, queues: Sequence[Queue], publish: Publish) -> Sequence[WaitingPointer] | None:
        """See `ports.PointerStore`."""
        async with self._hot.driver() as pg:
            if not await pg.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
                return None
            waiting = await _pick(pg, queues)
            if not waiting:
                return []
            taken = [one for one, ok in zip(waiting, await publish(waiting), strict=True) if ok]
            await pg.execute(_DELETE, *_keys(taken))
        return taken

    async def settle_direct(self, taken: Sequence[WaitingPointer], refused: Sequence[WaitingPointer]) -> None:
        """See `ports.PointerStore`."""
        async with self._hot.driver() as pg:
            if taken:
                await pg.execute(_DELETE, *_keys(taken))
            if refused:
                await pg.execute(_TO_FEEDER, *_keys(refused))

    async def recall_direct(self, older_seconds: float) -> int:
        """See `ports.PointerStore`."""
        async with self._hot.driver() as pg:
            return len(await pg.fetch(_RECALL, older_seconds))

    async def grant_places(self) -> bool:
        """See `ports.PointerStore`."""
        async with self._hot.driver() as pg:
            if not await pg.fetch(_BOUNDS):
                return False
            await pg.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
            await pg.execute(_FREE_PLACES)
            for row in await pg.fetch(_BOUNDS):
                await _grant(pg, row["kind"], row["work_group"], max(row["free"], 0))
        return True


async def _grant(pg: DriverConnection, kind: str, group: str, free: int) -> None:
    queues = [Queue(lane=kind, group=group, priority=priority, most=free) for priority in Priority]
    chosen = (await _pick(pg, queues))[:free]
    if chosen:
        await pg.execute(_TAKE_PLACES, kind, [one.task_id for one in chosen], [one.attempt for one in chosen])
        await pg.execute(_GRANT, *_keys(chosen))


async def _pick(pg: DriverConnection, queues: Sequence[Queue]) -> list[WaitingPointer]:
    rows = await pg.fetch(
        _PICK,
        [queue.lane for queue in queues],
        [queue.group for queue in queues],
        [queue.priority for queue in queues],
        [queue.most for queue in queues],
        [queue.after_owner for queue in queues],
    )
    asked = {(queue.group, int(queue.priority)): queue for queue in queues}
    return [_waiting(row, asked[row["work_group"], row["priority"]]) for row in rows]


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


def _keys(pointers: Sequence[WaitingPointer]) -> list[list[Any]]:
    return [
        [one.lane for one in pointers],
        [one.group for one in pointers],
        [one.priority for one in pointers],
        [one.owner_id for one in pointers],
        [one.seq for one in pointers],
    ]
