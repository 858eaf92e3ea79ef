"""Claims and outcomes: what is hot in a task's life after its acceptance, each in batches of many sessions' calls."""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and fixed column lists

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from chassis.errors import Conflict, MeshError, NotFound
from services.tasks.model.states import Due, EventType, Priority, State
from services.tasks.model.task import Change, Notice
from services.tasks.model.work import ClaimBatch, Claimed, End, OutcomeBatch, Pointer, Report
from services.tasks.ports import DecideOutcome
from services.tasks.store.changes import ENDED, LIVE_COLUMNS, to_live, write
from services.tasks.store.news import news_of
from services.tasks.store.outgoing import Outgoing, pointers_to

# A batch is looked up at once (= ANY) in each table, by its index, with one descent for each day of history. What is
# found is joined by hashing, as `HOT_PLANNER` has it. Both sides of the join that changes rows are in the order of ids,
# since either may lead: so all lock rows in one order, and nobody deadlocks. The index on sessions is kept out of it
# (`coalesce`), because it leads to everything that a session has held lately.
# Sessions that may not claim take no part, and are known by what comes back of them. Two pointers to one attempt in a
# batch (a duplicate, or two sessions) update its row once, for one of them. The second part of `a` answers a repeated
# call, and rests when all are claimed. It sees the rows as they were before this statement, so nothing is in both.
# What has no place is told: `fresh` is null there.
_CLAIM = f"""
WITH s AS MATERIALIZED (
  SELECT session_id, draining FROM tasks.worker_session
  WHERE session_id = ANY($5::text[]) AND lease_until > clock_timestamp()
), t AS MATERIALIZED (
  SELECT task_id, kind, payload, owner_id, timeout_seconds, traceparent, labels, deadline_at FROM tasks.task
  WHERE task_id = ANY($1::text[])
), m AS MATERIALIZED (
  SELECT i.*, t.timeout_seconds, t.deadline_at,
         t.kind = ANY(ARRAY(SELECT kind FROM tasks.kind WHERE max_running > 0)) AND NOT EXISTS (
           SELECT 1 FROM tasks.kind_place p WHERE p.kind = t.kind AND p.task_id = t.task_id AND p.attempt = i.attempt
         ) AS waits
  FROM unnest($1::text[], $2::int[], $3::text[]) AS i(task_id, attempt, session_id) JOIN t USING (task_id)
  WHERE i.session_id = ANY(ARRAY(SELECT session_id FROM s WHERE NOT draining)) ORDER BY task_id
), u AS (
  UPDATE tasks.task_live l
  SET state = {State.RUNNING:d}, attempt = l.attempt + 1, sequence = l.sequence + 1, session_id = m.session_id,
      enqueued_at = NULL, started_at = now(), progress = 0, progress_at = NULL, partial = NULL,
      timeout_at = now() + make_interval(secs => m.timeout_seconds + $4)
  FROM m WHERE l.task_id = m.task_id AND l.task_id = ANY($1::text[]) AND l.state = {State.QUEUED:d}
    AND l.attempt = m.attempt AND l.cancel_at IS NULL AND (m.deadline_at IS NULL OR m.deadline_at > now())
    AND NOT m.waits
  RETURNING l.task_id, l.session_id, l.attempt, l.sequence, l.max_attempts, now() AS at
), e AS (
  INSERT INTO tasks.task_event (task_id, sequence, type, attempt, at, data)
  SELECT task_id, sequence, '{EventType.STARTED}', attempt, at, '{{}}' FROM u
), c AS MATERIALIZED (
  SELECT u.*, t.kind, t.payload, t.owner_id, t.timeout_seconds, t.traceparent, t.labels FROM u JOIN t USING (task_id)
), n AS ({news_of(("c", f"'{EventType.STARTED}'"))}), a AS (
  SELECT task_id, session_id, attempt, max_attempts, kind, payload, owner_id, timeout_seconds, traceparent,
         true AS fresh FROM c
  UNION ALL
  SELECT l.task_id, l.session_id, l.attempt, l.max_attempts, t.kind, t.payload, t.owner_id, t.timeout_seconds,
         t.traceparent, false
  FROM m JOIN tasks.task_live l ON l.task_id = m.task_id AND l.attempt = m.attempt + 1
    AND coalesce(l.session_id, '') = m.session_id
  JOIN t ON t.task_id = l.task_id
  WHERE l.task_id = ANY($1::text[]) AND l.state = {State.RUNNING:d}
    AND (SELECT count(*) FROM u) < (SELECT count(*) FROM m)
  UNION ALL
  SELECT task_id, session_id, attempt, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM m WHERE waits
)
SELECT s.session_id AS live_session, s.draining, a.* FROM s LEFT JOIN a ON a.session_id = s.session_id
"""

# A pointer that went out before its kind had a bound, or to a place that was taken back, waits for one from here on.
_LET_WAIT = f"""
WITH m AS (
  SELECT l.work_group, l.priority, t.owner_id, t.kind, l.task_id, l.attempt, t.traceparent, now() AS at
  FROM unnest($1::text[], $2::int[]) AS i(task_id, attempt) CROSS JOIN LATERAL (
    SELECT * FROM tasks.task_live l
    WHERE l.task_id = i.task_id AND l.attempt = i.attempt AND l.state = {State.QUEUED:d} OFFSET 0
  ) AS l CROSS JOIN LATERAL (SELECT * FROM tasks.task t WHERE t.task_id = l.task_id OFFSET 0) AS t
  ORDER BY l.task_id
)
{pointers_to("m")}
"""

# A result ends its attempt whatever else is asked of it (T4), so nothing is decided between a look and a change: one
# statement. Not for what others run after: those who begin to wait after the statement's snapshot would not be seen.
_COMPLETE = f"""
WITH t AS MATERIALIZED (
  SELECT task_id, owner_id, kind, labels, traceparent, created_at FROM tasks.task WHERE task_id = ANY($1::text[])
), i AS MATERIALIZED (
  SELECT i.attempt AS held, i.session_id, i.result, t.*
  FROM unnest($1::text[], $2::int[], $3::text[], $4::bytea[]) AS i(task_id, attempt, session_id, result)
  JOIN t USING (task_id) ORDER BY task_id
), z AS (
  DELETE FROM tasks.task_live l USING i
  WHERE l.task_id = i.task_id AND l.task_id = ANY($1::text[]) AND l.state = {State.RUNNING:d} AND l.attempt = i.held
    AND coalesce(l.session_id, '') = i.session_id AND NOT l.awaited
  RETURNING l.task_id, {State.SUCCEEDED:d}::smallint AS state, '{EventType.SUCCEEDED}' AS type, '{{}}'::bytea AS data,
            i.result, NULL AS error_code, NULL AS error_message, clock_timestamp() AS at, i.session_id,
            l.sequence + 1 AS sequence, l.attempt, l.max_attempts, l.started_at, 1::float8 AS progress,
            NULL::bytea AS partial, l.work_group, coalesce(l.channel, '') AS channel, i.owner_id, i.kind, i.labels,
            i.traceparent, i.created_at
), {ENDED}
SELECT z.task_id, z.attempt, z.session_id, z.work_group, z.channel, EXISTS (SELECT FROM w) AS deliveries,
       date_part('epoch', z.at - z.started_at) AS busy_seconds,
       date_part('epoch', z.at - z.created_at) AS response_seconds
FROM z
"""

_LOCK_OUTCOMES = f"""
WITH l AS MATERIALIZED (
  SELECT l.* FROM (
    SELECT * FROM unnest($1::text[], $2::int[], $3::text[]) AS i(task_id, attempt, session_id) ORDER BY task_id
  ) AS i CROSS JOIN LATERAL (
    SELECT * FROM tasks.task_live l
    WHERE l.task_id = i.task_id AND l.state = {State.RUNNING:d} AND l.attempt = i.attempt
      AND coalesce(l.session_id, '') = i.session_id
    FOR UPDATE
  ) AS l
)
SELECT {LIVE_COLUMNS} FROM l JOIN tasks.task t USING (task_id) WHERE t.task_id = ANY($1::text[])
"""

# Of the last attempt of each task, whatever became of it: another one is due, or it was the end.
_FIND_REPORTED = """
SELECT i.task_id, i.attempt FROM unnest($1::text[], $2::int[]) AS i(task_id, attempt) CROSS JOIN LATERAL (
  SELECT FROM tasks.task_live l
  WHERE l.task_id = i.task_id AND l.attempt = i.attempt AND l.session_id IS NULL AND l.reported_by = $3
  UNION ALL
  SELECT FROM tasks.task_result r WHERE r.task_id = i.task_id AND r.attempt = i.attempt AND r.reported_by = $3
  OFFSET 0
) AS reported
"""

# Progress is always kept; it makes an event when the last one is a second old. No index is touched.
_PROGRESS = f"""
UPDATE tasks.task_live l
SET progress = $4, partial = coalesce(nullif($5, ''::bytea), l.partial),
    sequence = l.sequence + (l.progress_at IS NULL OR l.progress_at <= now() - interval '1 second')::int,
    progress_at = CASE WHEN l.progress_at IS NULL OR l.progress_at <= now() - interval '1 second' THEN now()
                  ELSE l.progress_at END
FROM tasks.task t
WHERE l.task_id = $1 AND l.attempt = $2 AND l.session_id = $3 AND l.state = {State.RUNNING:d} AND t.task_id = l.task_id
RETURNING l.task_id, l.sequence, l.attempt, l.work_group, l.priority, t.kind, t.owner_id, t.labels, t.traceparent,
  now() AS at, l.progress_at = now() AS is_event
"""

_ADD_EVENT = """
INSERT INTO tasks.task_event (task_id, sequence, type, attempt, at, data) VALUES ($1, $2, $3, $4, $5, $6)
"""


class Working:
    """Claims, outcomes and progress."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._passing = outgoing

    async def claim(
        self, batches: Sequence[ClaimBatch], grace_seconds: float
    ) -> Sequence[Sequence[Claimed] | MeshError]:
        """See `ports.WorkStore`."""
        wanted = [(p.task_id, p.attempt, b.session_id) for b in batches for p in b.pointers]
        columns = [list(column) for column in zip(*wanted, strict=True)] if wanted else [[], [], []]
        asked = list({batch.session_id for batch in batches})
        async with self._passing.transaction(single=True) as transaction:
            rows = await transaction.pg.fetch(_CLAIM, *columns, grace_seconds, asked)
            if any(row["fresh"] for row in rows):
                transaction.due.add(Due.NEWS)
            claimed = {
                (row["session_id"], row["task_id"], row["attempt"]): _claimed(row)
                for row in rows
                if row["fresh"] is not None
            }
            # The caller still has these pointers: if this fails it asks again.
            if len(claimed) < len(wanted) and (waiting := [r for r in rows if r["fresh"] is None and r["task_id"]]):
                again = [r["task_id"] for r in waiting], [r["attempt"] for r in waiting]
                await transaction.pg.execute(_LET_WAIT, *again)
                transaction.due.add(Due.WORK)
        sessions = {row["live_session"]: row["draining"] for row in rows}
        return [_answer(batch, sessions, claimed) for batch in batches]

    async def complete(self, batches: Sequence[OutcomeBatch]) -> Sequence[Sequence[End | None]]:
        """See `ports.WorkStore`."""
        # The same result twice in one batch takes effect once; the repetition is as good as the first.
        results = {(o.task_id, o.attempt, b.session_id): o.result for b in batches for o in b.outcomes}
        columns = [list(column) for column in zip(*results, strict=True)]
        async with self._passing.transaction(single=True) as transaction:
            rows = await transaction.pg.fetch(_COMPLETE, *columns, list(results.values()))
            if rows:
                transaction.due |= {Due.NEWS, Due.DELIVERIES} if rows[0]["deliveries"] else {Due.NEWS}
        ends = {(row["task_id"], row["attempt"], row["session_id"]): _end(row) for row in rows}
        return [[ends.get((o.task_id, o.attempt, b.session_id)) for o in b.outcomes] for b in batches]

    async def settle(
        self, batches: Sequence[OutcomeBatch], decide: DecideOutcome, *, reported: bool = True
    ) -> Sequence[Sequence[Change | None]]:
        """See `ports.WorkStore`."""
        wanted = [(o.task_id, o.attempt, b.session_id) for b in batches for o in b.outcomes]
        where = [(n, i) for n, batch in enumerate(batches) for i in range(len(batch.outcomes))]
        places: dict[tuple[str, int, str], list[tuple[int, int]]] = defaultdict(list)
        for key, place in zip(wanted, where, strict=True):
            places[key].append(place)
        answers: list[list[Change | None]] = [[None] * len(batch.outcomes) for batch in batches]
        if not places:
            return answers
        async with self._passing.transaction() as transaction:
            columns = [list(column) for column in zip(*places, strict=True)]
            changes = []
            for row in await transaction.pg.fetch(_LOCK_OUTCOMES, *columns):
                live = to_live(row)
                # The same outcome twice in one batch takes effect once; the repetition is as good as the first.
                same = places[live.task_id, live.attempt, row["session_id"]]
                number, index = same[0]
                change = decide(number, index, live)
                changes.append(change)
                for n, i in same:
                    answers[n][i] = change
            await write(transaction, changes, reported=reported)
        return answers

    async def find_reported(self, session_id: str, pointers: Sequence[Pointer]) -> Collection[Pointer]:
        """See `ports.WorkStore`."""
        columns = [p.task_id for p in pointers], [p.attempt for p in pointers]
        async with self._passing.transaction(single=True) as transaction:
            rows = await transaction.pg.fetch(_FIND_REPORTED, *columns, session_id)
        return {Pointer(task_id=row["task_id"], attempt=row["attempt"]) for row in rows}

    async def progress(self, session_id: str, pointer: Pointer, report: Report) -> bool:
        """See `ports.WorkStore`."""
        task_id, attempt = pointer.task_id, pointer.attempt
        async with self._passing.transaction() as transaction:
            row = await transaction.pg.fetchrow(
                _PROGRESS, task_id, attempt, session_id, report.progress, report.partial
            )
            if row is not None and row["is_event"]:
                await transaction.pg.execute(
                    _ADD_EVENT, task_id, row["sequence"], EventType.PROGRESS, attempt, row["at"], report.data
                )
                await transaction.announce([_notice(row, EventType.PROGRESS, report.data)])
        return row is not None


def _end(row: Any) -> End:
    return End(
        group=row["work_group"],
        channel=row["channel"],
        session_id=row["session_id"],
        failed=False,
        busy_seconds=row["busy_seconds"],
        response_seconds=row["response_seconds"],
    )


def _answer(
    batch: ClaimBatch, sessions: dict[str, bool], claimed: dict[tuple[str, str, int], Claimed]
) -> Sequence[Claimed] | MeshError:
    draining = sessions.get(batch.session_id)
    if draining is None:
        return NotFound("The session is over", code="SESSION_LOST")
    if draining:
        return Conflict("The session only ends what it holds", code="SESSION_DRAINING")
    found = (claimed.get((batch.session_id, pointer.task_id, pointer.attempt + 1)) for pointer in batch.pointers)
    unique = {one.task_id: one for one in found if one is not None}
    return tuple(unique.values())


def _claimed(row: Any) -> Claimed:
    return Claimed(
        task_id=row["task_id"],
        attempt=row["attempt"],
        kind=row["kind"],
        payload=row["payload"],
        owner_id=row["owner_id"],
        timeout_seconds=row["timeout_seconds"],
        max_attempts=row["max_attempts"],
        traceparent=row["traceparent"],
    )


def _notice(row: Any, event: EventType, data: bytes = b"{}") -> Notice:
    return Notice(
        task_id=row["task_id"],
        kind=row["kind"],
        owner_id=row["owner_id"],
        group=row["work_group"],
        priority=Priority(row["priority"]),
        type=event,
        sequence=row["sequence"],
        attempt=row["attempt"],
        at=row["at"],
        data=data,
        labels=row["labels"],
        traceparent=row["traceparent"],
    )
