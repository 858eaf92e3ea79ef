"""Acceptance: idempotency keys, task, live row, first event, timers and messages in one commit for a whole batch."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from chassis.database import DriverConnection
from chassis.errors import Conflict, MeshError
from services.tasks.model.states import EventType, State
from services.tasks.model.task import Accepted, Notice, Submission, Task
from services.tasks.store.outgoing import Outgoing, Transaction
from services.tasks.store.reading import read_tasks

# Sorted, so that two batches with the same keys wait for each other and do not deadlock. An expired key is taken over.
_TAKE_KEYS = """
INSERT INTO tasks.idem AS o (owner_id, key, fingerprint, task_id, expires_at)
SELECT owner_id, key, fingerprint, task_id, now() + make_interval(secs => $5)
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) AS i(owner_id, key, fingerprint, task_id)
ORDER BY owner_id, key
ON CONFLICT (owner_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, task_id = excluded.task_id, expires_at = excluded.expires_at
WHERE o.expires_at <= now()
RETURNING task_id
"""

# Read by a second statement: only a new snapshot sees what a concurrent batch has just committed.
_READ_KEYS = """
SELECT o.owner_id, o.key, o.fingerprint, o.task_id
FROM tasks.idem o JOIN unnest($1::text[], $2::text[]) AS i(owner_id, key) USING (owner_id, key)
"""

_INSERT = """
WITH i AS (
  SELECT i.*, CASE WHEN run_at > now() THEN $13::smallint ELSE $14::smallint END AS state
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bytea[], $7::bytea[], $8::int[],
              $9::int[], $10::timestamptz[], $11::timestamptz[], $12::text[])
  AS i(task_id, owner_id, kind, work_group, priority, payload, labels, max_attempts, timeout_seconds, run_at,
       deadline_at, traceparent)
), t AS (
  INSERT INTO tasks.task (task_id, owner_id, kind, work_group, priority, payload, labels, max_attempts,
                          timeout_seconds, run_at, deadline_at, traceparent, created_at)
  SELECT task_id, owner_id, kind, work_group, priority, payload, labels, max_attempts, timeout_seconds, run_at,
         deadline_at, traceparent, now() FROM i
), l AS (
  INSERT INTO tasks.task_live (task_id, state, work_group, priority, max_attempts, sequence, enqueued_at)
  SELECT task_id, state, work_group, priority, max_attempts, 1, CASE state WHEN $14 THEN now() END FROM i
), e AS (
  INSERT INTO tasks.task_event (task_id, sequence, type, attempt, at, data)
  SELECT task_id, 1, 'queued', 0, now(), '{}' FROM i
), s AS (
  INSERT INTO tasks.schedule (due_at, task_id, purpose, attempt)
  SELECT run_at, task_id, 1, 0 FROM i WHERE state = $13
  UNION ALL SELECT deadline_at, task_id, 2, 0 FROM i WHERE deadline_at IS NOT NULL
)
SELECT task_id, state, now() AS at FROM i
"""


class Accepting:
    """Writes batches of submissions.

    Args:
        keys_live_seconds: how long an idempotency key is remembered.
    """

    def __init__(self, outgoing: Outgoing, keys_live_seconds: float) -> None:
        self._outgoing = outgoing
        self._keys_live_seconds = keys_live_seconds

    async def accept(self, submissions: Sequence[Submission]) -> list[Accepted | MeshError]:
        """See `ports.TaskStore`."""
        async with self._outgoing.transaction() as transaction:
            owners = await self._take_keys(transaction.pg, submissions)
            fresh = [s for s in submissions if not s.idempotency_key or _owner_of(owners, s).task_id == s.task_id]
            tasks = await self._insert(transaction, fresh) if fresh else {}
            known = [o.task_id for o in owners.values() if o.task_id not in tasks]
            tasks |= {task.task_id: task for task in await read_tasks(transaction.pg, known)} if known else {}
        return [_answer(submission, owners, tasks) for submission in submissions]

    async def _take_keys(
        self, pg: DriverConnection, submissions: Sequence[Submission]
    ) -> dict[tuple[str, str], "_Key"]:
        """Who owns each key of the batch now; of equal keys in one batch the first tries to take it."""
        wanted: dict[tuple[str, str], _Key] = {}
        for s in submissions:
            if s.idempotency_key:
                wanted.setdefault((s.owner_id, s.idempotency_key), _Key(s.task_id, s.fingerprint))
        if not wanted:
            return {}
        columns = (
            [owner for owner, _ in wanted],
            [key for _, key in wanted],
            [k.fingerprint for k in wanted.values()],
            [k.task_id for k in wanted.values()],
        )
        taken = {row["task_id"] for row in await pg.fetch(_TAKE_KEYS, *columns, self._keys_live_seconds)}
        if len(taken) < len(wanted):
            for row in await pg.fetch(_READ_KEYS, columns[0], columns[1]):
                wanted[row["owner_id"], row["key"]] = _Key(row["task_id"], row["fingerprint"])
        return wanted

    async def _insert(self, transaction: Transaction, fresh: Sequence[Submission]) -> dict[str, Task]:
        columns = [list(column) for column in zip(*map(_row, fresh), strict=True)]
        rows = await transaction.pg.fetch(_INSERT, *columns, State.SCHEDULED, State.QUEUED)
        written = {row["task_id"]: (State(row["state"]), row["at"]) for row in rows}
        await transaction.announce([_notice(s, *written[s.task_id]) for s in fresh])
        return {s.task_id: _task(s, *written[s.task_id]) for s in fresh}


class _Key:
    """Whose a key is."""

    __slots__ = ("fingerprint", "task_id")

    def __init__(self, task_id: str, fingerprint: bytes) -> None:
        self.task_id = task_id
        self.fingerprint = fingerprint


def _owner_of(owners: dict[tuple[str, str], _Key], submission: Submission) -> _Key:
    return owners[submission.owner_id, submission.idempotency_key]


def _answer(
    submission: Submission, owners: dict[tuple[str, str], _Key], tasks: dict[str, Task]
) -> Accepted | MeshError:
    if not submission.idempotency_key:
        return Accepted(task=tasks[submission.task_id], replayed=False)
    owner = _owner_of(owners, submission)
    if owner.fingerprint != submission.fingerprint:
        return Conflict("This idempotency key was used for another request", code="IDEMPOTENCY_MISMATCH")
    return Accepted(task=tasks[owner.task_id], replayed=owner.task_id != submission.task_id)


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
    )


def _notice(s: Submission, state: State, at: datetime) -> Notice:
    return Notice(
        task_id=s.task_id,
        kind=s.kind,
        owner_id=s.owner_id,
        group=s.group,
        priority=s.priority,
        type=EventType.QUEUED,
        sequence=1,
        attempt=0,
        at=at,
        labels=s.labels,
        traceparent=s.traceparent,
        asks_for_work=state is State.QUEUED,
    )
