"""Locked rows in, decided changes out: the one way a live task is changed after its claim.

Each writer is one statement over column arrays, whatever the size of the batch. The rows are locked by the caller, so
the writers need no guards of their own.
"""

# ruff: noqa: S608 - what is put into these statements are numbers of the state table and fixed column lists

from collections.abc import Sequence
from typing import Any

from services.tasks.model.states import Due, EventType, Priority, Purpose, State
from services.tasks.model.task import Change, Live, notice_of
from services.tasks.ports import Decide
from services.tasks.store.news import news_of
from services.tasks.store.outgoing import Transaction
from services.tasks.store.telling import TELL_WEBHOOKS

# Of a locked live row and its task; every statement that locks selects these.
LIVE_COLUMNS = """l.task_id, t.owner_id, t.kind, l.work_group, l.priority, l.state, l.attempt, l.max_attempts, l.lost,
  l.sequence, l.session_id, l.cancel_at IS NOT NULL AS cancel_asked, l.started_at, l.waits,
  coalesce(l.channel, '') AS channel, t.labels, t.traceparent, t.created_at, t.run_at, clock_timestamp() AS now"""

# What every statement does that ends tasks; `z` is what ended: an attempt, its outcome, the session that reported it,
# and what never changes of it.
ENDED = f"""r AS (
  INSERT INTO tasks.task_result (task_id, state, attempt, max_attempts, progress, result, error_code, error_message,
                                 started_at, finished_at, partial, reported_by)
  SELECT task_id, state, attempt, max_attempts, progress, result, error_code, error_message, started_at, at, partial,
         session_id FROM z
), b AS (
  INSERT INTO tasks.dead_letter (task_id, attempt, error_code, error_message, at)
  SELECT task_id, attempt, error_code, error_message, at FROM z WHERE state = {State.DEAD:d}
), e AS (
  INSERT INTO tasks.task_event (task_id, sequence, type, attempt, at, data)
  SELECT task_id, sequence, type, attempt, at, data FROM z WHERE state <> {State.SUCCEEDED:d}
), w AS ({TELL_WEBHOOKS}), n AS ({news_of(("z", "type"), data="data", result="result")})"""

# Whoever runs after these is told by a timer in the same commit, and looked at under its own lock then.
_END = f"""
WITH i AS (
  SELECT * FROM unnest($1::text[], $2::int[], $3::smallint[], $4::text[], $5::bytea[], $6::bytea[], $7::text[],
                       $8::text[], $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::text[])
  AS i(task_id, sequence, state, type, data, result, error_code, error_message, at, owner_id, kind, traceparent, labels,
       session_id)
), d AS (
  DELETE FROM tasks.task_live l WHERE l.task_id = ANY($1::text[])
  RETURNING l.task_id, l.attempt, l.max_attempts, l.progress, l.started_at, l.partial
), z AS MATERIALIZED (
  SELECT i.*, d.attempt, d.max_attempts, d.started_at,
         CASE i.state WHEN {State.SUCCEEDED:d} THEN 1 ELSE d.progress END AS progress,
         CASE i.state WHEN {State.SUCCEEDED:d} THEN NULL ELSE d.partial END AS partial
  FROM i JOIN d USING (task_id)
), s AS (
  INSERT INTO tasks.schedule (due_at, task_id, purpose, attempt)
  SELECT DISTINCT now(), p.task_id, {Purpose.PREREQUISITE:d}, 0
  FROM z CROSS JOIN LATERAL (SELECT p.task_id FROM tasks.prerequisite p WHERE p.after_id = z.task_id OFFSET 0) AS p
  ON CONFLICT DO NOTHING RETURNING task_id
), {ENDED}
SELECT EXISTS (SELECT FROM s) AS timers, EXISTS (SELECT FROM w) AS deliveries
"""

_MOVE = """
WITH i AS (
  SELECT * FROM unnest($1::text[], $2::int[], $3::smallint[], $4::text[], $5::bytea[], $6::smallint[], $7::int[],
                       $8::float8[], $9::timestamptz[], $10::text[])
  AS i(task_id, sequence, state, type, data, lost, max_attempts, delay_seconds, at, session_id)
), u AS (
  UPDATE tasks.task_live l
  SET state = i.state, sequence = i.sequence, lost = i.lost, max_attempts = i.max_attempts, session_id = NULL,
      timeout_at = NULL, progress = 0, progress_at = NULL,
      reported_by = i.session_id, waits = false, enqueued_at = CASE i.state WHEN $11 THEN i.at END
  FROM i WHERE l.task_id = i.task_id AND l.task_id = ANY($1::text[])
  RETURNING l.task_id, l.attempt
), s AS (
  INSERT INTO tasks.schedule (due_at, task_id, purpose, attempt)
  SELECT i.at + make_interval(secs => i.delay_seconds), i.task_id, 1, u.attempt
  FROM i JOIN u USING (task_id) WHERE i.state <> $11
)
INSERT INTO tasks.task_event (task_id, sequence, type, attempt, at, data)
SELECT i.task_id, i.sequence, i.type, u.attempt, i.at, i.data FROM i JOIN u USING (task_id)
"""

_ASK = """
UPDATE tasks.task_live SET cancel_at = coalesce(cancel_at, clock_timestamp()) WHERE task_id = ANY($1::text[])
"""


def to_live(row: Any) -> Live:
    """A locked row as the rules see it."""
    values = dict(row)
    return Live(
        state=State(values.pop("state")),
        priority=Priority(values.pop("priority")),
        group=values.pop("work_group"),
        **{name: values[name] for name in _LIVE_FIELDS},
    )


_LIVE_FIELDS = tuple(name for name in Live.__slots__ if name not in {"state", "priority", "group"})


async def apply(transaction: Transaction, rows: Sequence[Any], decide: Decide) -> list[Change | None]:
    """Lets `decide` look at each locked row, writes what it decided, and answers in the order of the rows."""
    decided = [decide(to_live(row)) for row in rows]
    await write(transaction, [change for change in decided if change is not None])
    return decided


async def write(transaction: Transaction, changes: Sequence[Change], *, reported: bool = False) -> None:
    """Writes changes of rows that this transaction has locked; `reported`: by the sessions that held the attempts."""
    ends = [change for change in changes if change.to.is_end]
    moves = [change for change in changes if change.to in {State.QUEUED, State.SCHEDULED}]
    asks = [change for change in changes if change.to is State.RUNNING]
    if ends:
        (left,) = await transaction.pg.fetch(_END, *_columns([_end_row(change, reported=reported) for change in ends]))
        transaction.due |= {Due.NEWS, *(due for due in (Due.TIMERS, Due.DELIVERIES) if left[due.value])}
    if moves:
        await transaction.pg.execute(
            _MOVE, *_columns([_move_row(change, reported=reported) for change in moves]), State.QUEUED
        )
    if asks:
        await transaction.pg.execute(_ASK, [change.live.task_id for change in asks])
        transaction.due.add(Due.STOPS)
    await transaction.announce([notice_of(change) for change in moves])


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _end_row(change: Change, *, reported: bool) -> tuple[Any, ...]:
    error = change.error
    return (
        change.live.task_id,
        change.sequence,
        change.to,
        change.event or EventType.FAILED,
        change.data,
        change.result,
        error.code if error else None,
        error.message if error else None,
        change.live.now,
        change.live.owner_id,
        change.live.kind,
        change.live.traceparent,
        change.live.labels,
        change.live.session_id if reported else None,
    )


def _move_row(change: Change, *, reported: bool) -> tuple[Any, ...]:
    return (
        change.live.task_id,
        change.sequence,
        change.to,
        change.event or EventType.QUEUED,
        change.data,
        change.lost,
        change.max_attempts,
        change.delay_seconds,
        change.live.now,
        change.live.session_id if reported else None,
    )
