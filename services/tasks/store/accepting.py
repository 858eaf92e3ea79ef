"""Acceptance: idempotency keys, task, live row, first event, timers and messages in one commit for a whole batch.

What only some tasks have (unique keys, prerequisites) is in `linking`, and costs the others no statement.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeAlias

from chassis.database import DriverConnection
from chassis.errors import Conflict, MeshError
from services.tasks.model.states import Due, EventType, State
from services.tasks.model.task import Accepted, Receipt, Submission, Task
from services.tasks.model.work import TIMEOUT_GRACE_SECONDS
from services.tasks.store import bounds, linking
from services.tasks.store.news import news_of
from services.tasks.store.outgoing import Outgoing, Transaction, pointers_to
from services.tasks.store.reading import read_tasks

# Sorted, so that two batches with the same keys wait for each other and do not deadlock. An expired key is taken over.
TAKE_KEYS = """
INSERT INTO tasks.idem AS o (owner_id, key, fingerprint, task_id, expires_at)
SELECT owner_id, key, fingerprint, task_id, now() + make_interval(secs => $5)
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) AS i(owner_id, key, fingerprint, task_id)
ORDER BY owner_id, key
ON CONFLICT (owner_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, task_id = excluded.task_id, expires_at = excluded.expires_at,
    queue_position = NULL, estimated_seconds = NULL, estimated_at = NULL, duplicate = NULL
WHERE o.expires_at <= now()
RETURNING task_id
"""

# Read by a second statement: only a new snapshot sees what a concurrent batch has just committed.
READ_KEYS = """
SELECT o.* FROM unnest($1::text[], $2::text[]) AS i(owner_id, key) CROSS JOIN LATERAL (
  SELECT o.owner_id, o.key, o.fingerprint, o.task_id FROM tasks.idem o
  WHERE o.owner_id = i.owner_id AND o.key = i.key OFFSET 0
) AS o
"""

# A key that was taken a moment ago for a task that is not made after all; without another task it is free again.
_REPOINT_KEYS = """
WITH i AS (
  SELECT i.task_id, o.ctid AS row FROM unnest($1::text[], $2::text[], $3::text[]) AS i(owner_id, key, task_id)
  CROSS JOIN LATERAL (SELECT ctid FROM tasks.idem o WHERE o.owner_id = i.owner_id AND o.key = i.key OFFSET 0) AS o
), d AS (
  DELETE FROM tasks.idem WHERE ctid = ANY(ARRAY(SELECT row FROM i WHERE task_id IS NULL))
)
UPDATE tasks.idem o SET task_id = i.task_id FROM i
WHERE o.ctid = i.row AND o.ctid = ANY(ARRAY(SELECT row FROM i WHERE task_id IS NOT NULL))
"""

# The first answer stands, also when two are given at once.
_KEEP_RECEIPT = """
UPDATE tasks.idem
SET queue_position = coalesce(queue_position, $4), estimated_seconds = coalesce(estimated_seconds, $5),
    estimated_at = coalesce(estimated_at, $6), duplicate = coalesce(duplicate, $7)
WHERE owner_id = $1 AND key = $2 AND task_id = $3
RETURNING queue_position, estimated_seconds, estimated_at, duplicate
"""

# What begins in a slot that a session offers ($22) is claimed here, if the session lives. Of the rest, pointers that
# take the short way ($21) share a row, whose number is told; those of a kind with a bound do neither.
# Columns in which no row has a value may come as empty arrays, and are all NULL then; only what the caller does not
# know is told: the sessions that live, the tasks that are not queued, and those that wait in the table after all.
_INSERT = f"""
WITH w AS MATERIALIZED (
  SELECT session_id FROM tasks.worker_session
  WHERE session_id = ANY($22::text[]) AND NOT draining AND lease_until > clock_timestamp()
), i AS MATERIALIZED (
  SELECT *, CASE WHEN passes AND offered = ANY(ARRAY(SELECT session_id FROM w)) THEN offered END AS held FROM (
    SELECT task_id, owner_id, kind, work_group, priority, payload, coalesce(labels, '') AS labels, max_attempts,
           timeout_seconds, run_at, deadline_at, coalesce(traceparent, '') AS traceparent,
           string_to_array(nullif(run_after, ''), ',') AS run_after, coalesce(join_any, false) AS join_any, unique_key,
           unique_digest, schedule_id, channel, coalesce(straight, false) AS straight, offered,
           coalesce(straight AND kind <> ALL(ARRAY(
             SELECT k.kind FROM tasks.kind k WHERE k.kind = ANY($3) AND k.max_running > 0
           )), false) AS passes,
           CASE WHEN run_at > now() OR run_after <> '' THEN $19::smallint ELSE $20::smallint END AS state,
           1 AS sequence, 0 AS attempt, now() AS at
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bytea[], $7::bytea[], $8::int[],
                $9::int[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[], $14::bool[], $15::text[],
                $16::bytea[], $17::text[], $18::text[], $21::bool[], $22::text[])
    AS u(task_id, owner_id, kind, work_group, priority, payload, labels, max_attempts, timeout_seconds, run_at,
         deadline_at, traceparent, run_after, join_any, unique_key, unique_digest, schedule_id, channel, straight,
         offered)
  ) AS u
), c AS MATERIALIZED (
  SELECT clock_timestamp() AS at
), b AS MATERIALIZED (
  SELECT i.task_id, owner_id, kind, labels, traceparent, 2 AS sequence, 1 AS attempt, c.at, held,
         c.at + make_interval(secs => timeout_seconds + {TIMEOUT_GRACE_SECONDS}) AS timeout_at
  FROM i CROSS JOIN c WHERE held IS NOT NULL
), t AS (
  INSERT INTO tasks.task (task_id, owner_id, kind, work_group, priority, payload, labels, max_attempts,
                          timeout_seconds, run_at, deadline_at, traceparent, created_at, run_after, join_any,
                          unique_key, schedule_id)
  SELECT task_id, owner_id, kind, work_group, priority, payload, labels, max_attempts, timeout_seconds, run_at,
         deadline_at, traceparent, at, run_after, join_any, unique_key, schedule_id FROM i
), l AS (
  INSERT INTO tasks.task_live (task_id, state, work_group, priority, max_attempts, attempt, sequence, session_id,
                               enqueued_at, started_at, timeout_at, waits, unique_digest, channel)
  SELECT i.task_id, CASE WHEN b.held IS NULL THEN state ELSE {State.RUNNING:d} END, work_group, priority, max_attempts,
         coalesce(b.attempt, 0), coalesce(b.sequence, 1), b.held,
         CASE WHEN state = $20 AND b.held IS NULL THEN i.at END, b.at, b.timeout_at, run_after IS NOT NULL,
         unique_digest, channel
  FROM i LEFT JOIN b USING (task_id)
), e AS (
  INSERT INTO tasks.task_event (task_id, sequence, type, attempt, at, data)
  SELECT task_id, sequence, '{EventType.STARTED}', attempt, at, '{{}}' FROM b
), s AS (
  INSERT INTO tasks.schedule (due_at, task_id, purpose, attempt)
  SELECT run_at, task_id, 1, 0 FROM i WHERE run_at > now()
  UNION ALL SELECT deadline_at, task_id, 2, 0 FROM i WHERE deadline_at IS NOT NULL
), n AS ({news_of(("i", f"'{EventType.QUEUED}'"), ("b", f"'{EventType.STARTED}'"))}
), p AS ({pointers_to("(SELECT * FROM i WHERE state = $20 AND NOT passes)")}
), d AS (
  INSERT INTO tasks.direct (at, task_ids)
  SELECT now(), array_agg(task_id) FROM i WHERE state = $20 AND passes AND held IS NULL HAVING count(*) > 0
  RETURNING seq
)
SELECT NULL AS task_id, (SELECT seq FROM d) AS seq, now() AS at,
       EXISTS (SELECT FROM i WHERE state = $20 AND NOT passes) AS waits, ARRAY(SELECT session_id FROM w) AS sessions
UNION ALL SELECT task_id, NULL, NULL, state = $20, NULL FROM i WHERE state = $19 OR (straight AND NOT passes)
"""  # noqa: S608 - the parts above

# The number of the row that its pointer shares, or the session that holds it.
_Way: TypeAlias = tuple[int, str]
_NO_WAY = (0, "")


class Accepting:
    """Writes batches of submissions.

    Args:
        keys_live_seconds: how long an idempotency key is remembered.
    """

    def __init__(self, outgoing: Outgoing, keys_live_seconds: float) -> None:
        self._passing = outgoing
        self._keys_live_seconds = keys_live_seconds

    async def accept(
        self, submissions: Sequence[Submission], direct: Collection[str] = (), offered: Mapping[str, str] | None = None
    ) -> list[Accepted | MeshError]:
        """See `ports.TaskStore`."""
        async with self._passing.transaction(single=not any(map(_is_tied, submissions))) as transaction:
            return await self._accept(transaction, submissions, direct, offered or {})

    async def accept_all(
        self, submissions: Sequence[Submission], direct: Collection[str] = (), offered: Mapping[str, str] | None = None
    ) -> list[Accepted]:
        """See `ports.TaskStore`."""
        async with self._passing.transaction(single=not any(map(_is_tied, submissions))) as transaction:
            answers = await self._accept(transaction, submissions, direct, offered or {})
            return [_accepted(answer, index) for index, answer in enumerate(answers)]

    async def keep_receipt(self, owner_id: str, key: str, receipt: Receipt) -> Receipt:
        """See `ports.TaskStore`. A key that has ended meanwhile keeps nothing."""
        accepted = receipt.accepted
        answer = (receipt.queue_position, receipt.estimated_seconds, receipt.estimated_at, accepted.duplicate)
        async with self._passing.transaction() as transaction:
            row = await transaction.pg.fetchrow(_KEEP_RECEIPT, owner_id, key, accepted.task.task_id, *answer)
        if row is None:
            return receipt
        kept = dict(row)
        return replace(receipt, accepted=replace(accepted, duplicate=kept.pop("duplicate")), **kept)

    async def _accept(
        self,
        transaction: Transaction,
        submissions: Sequence[Submission],
        direct: Collection[str],
        offered: Mapping[str, str],
    ) -> list[Accepted | MeshError]:
        pg = transaction.pg
        owners = await self._take_keys(pg, submissions)
        fresh = [s for s in submissions if not s.idempotency_key or _owner_of(owners, s).task_id == s.task_id]
        refused = await linking.refuse_unknown(pg, fresh)
        fresh = [s for s in fresh if s.task_id not in refused]
        others = await linking.find_twins(pg, fresh)
        refused |= await bounds.refuse_beyond(pg, [s for s in fresh if s.task_id not in others])
        refused |= {task_id: refused[other] for task_id, other in others.items() if other in refused}
        others = {task_id: other for task_id, other in others.items() if task_id not in refused}
        fresh = [s for s in fresh if s.task_id not in refused]
        twins = set(others)
        if keyed := [s for s in submissions if s.idempotency_key and (s.task_id in refused or s.task_id in twins)]:
            rows = [(*_key(s), others.get(s.task_id)) for s in keyed]
            await pg.execute(_REPOINT_KEYS, *(list(column) for column in zip(*rows, strict=True)))
        others |= {s.task_id: o.task_id for s in submissions if (o := owners.get(_key(s))) and s.task_id not in others}
        fresh = [linking.renamed(s, others) for s in fresh if s.task_id not in twins]
        tasks, ways = await self._insert(transaction, fresh, direct, offered) if fresh else ({}, {})
        known = sorted({task_id for task_id in others.values() if task_id not in tasks})
        tasks |= {task.task_id: task for task in await read_tasks(pg, known)} if known else {}
        return [refused.get(s.task_id) or _answer(s, owners, tasks, others, ways) for s in submissions]

    async def _take_keys(
        self, pg: DriverConnection, submissions: Sequence[Submission]
    ) -> dict[tuple[str, str], "_Key"]:
        """Who owns each key of the batch now; of equal keys in one batch the first tries to take it."""
        wanted: dict[tuple[str, str], _Key] = {}
        for s in submissions:
            if s.idempotency_key:
                wanted.setdefault(_key(s), _Key(s.task_id, s.fingerprint))
        if not wanted:
            return {}
        columns = (
            [owner for owner, _ in wanted],
            [key for _, key in wanted],
            [k.fingerprint for k in wanted.values()],
            [k.task_id for k in wanted.values()],
        )
        taken = {row["task_id"] for row in await pg.fetch(TAKE_KEYS, *columns, self._keys_live_seconds)}
        if len(taken) < len(wanted):
            for row in await pg.fetch(READ_KEYS, columns[0], columns[1]):
                wanted[row["owner_id"], row["key"]] = _Key(row["task_id"], row["fingerprint"])
        return wanted

    async def _insert(
        self,
        transaction: Transaction,
        fresh: Sequence[Submission],
        direct: Collection[str],
        offered: Mapping[str, str],
    ) -> tuple[dict[str, Task], dict[str, _Way]]:
        """The tasks by id, and which way those in `direct` took, as far as they did."""
        columns = _columns(_row(s) for s in fresh)
        straight = [s.task_id in direct for s in fresh] if direct else []
        sessions = [offered.get(s.task_id) for s in fresh] if offered else []
        told, *rows = await transaction.pg.fetch(_INSERT, *columns, State.SCHEDULED, State.QUEUED, straight, sessions)
        others = {row["task_id"]: row["waits"] for row in rows}
        begun = {session_id: (0, session_id) for session_id in told["sessions"]}
        shared = told["seq"], ""
        ways = {
            s.task_id: begun.get(offered.get(s.task_id, ""), shared)
            for s in fresh
            if s.task_id in direct and s.task_id not in others
        }
        scheduled = {task_id for task_id, waits in others.items() if not waits}
        transaction.due |= {Due.NEWS, Due.WORK} if told["waits"] else {Due.NEWS}
        await linking.link(transaction, fresh)
        states = [State.SCHEDULED if s.task_id in scheduled else State.QUEUED for s in fresh]
        return {s.task_id: _task(s, state, told["at"]) for s, state in zip(fresh, states, strict=True)}, ways


def _is_tied(submission: Submission) -> bool:
    """Something else has to be looked at, or written, in the transaction that accepts it."""
    return bool(submission.idempotency_key or submission.unique_key or submission.run_after or submission.bound)


class _Key:
    """Whose a key is."""

    __slots__ = ("fingerprint", "task_id")

    def __init__(self, task_id: str, fingerprint: bytes) -> None:
        self.task_id = task_id
        self.fingerprint = fingerprint


def _key(submission: Submission) -> tuple[str, str]:
    return submission.owner_id, submission.idempotency_key


def _owner_of(owners: dict[tuple[str, str], _Key], submission: Submission) -> _Key:
    return owners[_key(submission)]


def _answer(
    submission: Submission,
    owners: dict[tuple[str, str], _Key],
    tasks: dict[str, Task],
    others: dict[str, str],
    ways: Mapping[str, _Way],
) -> Accepted | MeshError:
    own_id = asked_id = submission.task_id
    if submission.idempotency_key:
        owner = _owner_of(owners, submission)
        if owner.fingerprint != submission.fingerprint:
            return Conflict("This idempotency key was used for another request", code="IDEMPOTENCY_MISMATCH")
        asked_id = owner.task_id
    task = tasks[others.get(asked_id, asked_id)]
    if task.task_id == own_id:
        pointer_seq, held_by = ways.get(own_id, _NO_WAY)
        return Accepted(task=task, replayed=False, pointer_seq=pointer_seq, held_by=held_by)
    return Accepted(task=task, replayed=asked_id != own_id, duplicate=asked_id == own_id)


def _accepted(answer: Accepted | MeshError, index: int) -> Accepted:
    if isinstance(answer, MeshError):
        answer.details = {**answer.details, "index": str(index)}
        raise answer
    return answer


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[Sequence[Any]]:
    # What no task of the batch has is not sent for each of them.
    return [column if any(column) else () for column in zip(*rows, strict=True)]


def _row(s: Submission) -> tuple[Any, ...]:
    return (
        s.task_id,
        s.owner_id,
        s.kind,
        s.group,
        s.priority,
        s.payload,
        s.labels,
        s.max_attempts,
        s.timeout_seconds,
        s.run_at,
        s.deadline_at,
        s.traceparent,
        ",".join(s.run_after) or None,
        s.join_any,
        s.unique_key or None,
        s.unique_digest,
        s.schedule_id or None,
        s.channel or None,
    )


def _task(s: Submission, state: State, at: datetime) -> Task:
    return Task(
        task_id=s.task_id,
        kind=s.kind,
        owner_id=s.owner_id,
        priority=s.priority,
        state=state,
        attempt=0,
        max_attempts=s.max_attempts,
        payload=s.payload,
        result=b"",
        error=None,
        progress=0.0,
        created_at=at,
        started_at=None,
        finished_at=None,
        run_at=s.run_at,
        traceparent=s.traceparent,
        labels=s.labels,
        timeout_seconds=s.timeout_seconds,
        run_after=s.run_after,
        join_any=s.join_any,
        unique_key=s.unique_key,
        deadline_at=s.deadline_at,
        schedule_id=s.schedule_id,
    )
