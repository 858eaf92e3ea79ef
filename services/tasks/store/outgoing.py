"""What a transaction announces: pointers and news, and who is woken after the commit.

Knows no wording: notices are turned into messages by a function it is given.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from chassis.database import Database, DriverConnection
from chassis.messaging.message import Message
from services.tasks.model.states import Due
from services.tasks.model.task import Notice
from services.tasks.model.work import DIRECT_LANE

Wording = Callable[[Sequence[Notice]], Sequence[Message]]

# Told what a commit has left to do.
Wake = Callable[[Collection[Due]], None]

_NEWS = """
INSERT INTO tasks.outbox_events (id, exchange, routing_key, type, body, subject, sequence, time, source, traceparent)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bigint[],
                     $8::timestamptz[], $9::text[], $10::text[])
"""

# A pointer of a kind with a bound waits in the lane of its own, unless its attempt has a place already.
_BOTH = f"""
WITH n AS ({_NEWS}), m AS (
  SELECT * FROM unnest($11::text[], $12::smallint[], $13::text[], $14::text[], $15::text[], $16::int[], $17::text[],
                       $18::timestamptz[], $19::text[])
  AS m(work_group, priority, owner_id, kind, task_id, attempt, traceparent, at, lane)
)
INSERT INTO tasks.pointer (lane, work_group, priority, owner_id, task_id, attempt, traceparent, at)
SELECT CASE WHEN k.max_running > 0 AND NOT EXISTS (
         SELECT 1 FROM tasks.kind_place h WHERE h.kind = m.kind AND h.task_id = m.task_id AND h.attempt = m.attempt
       ) THEN m.kind ELSE m.lane END, m.work_group, m.priority, m.owner_id, m.task_id, m.attempt, m.traceparent, m.at
FROM m LEFT JOIN tasks.kind k USING (kind)
RETURNING task_id, lane, seq
"""  # noqa: S608 - the statement above


class Transaction:
    """One transaction that may announce something. `due` is what it leaves to do."""

    def __init__(self, pg: DriverConnection, wording: Wording) -> None:
        self.pg = pg
        self.due: set[Due] = set()
        self._wording = wording

    async def announce(self, notices: Sequence[Notice], direct: Collection[str] = ()) -> dict[str, int]:
        """Puts the pointers and the news of these notices into this transaction.

        Answers the numbers of the pointers to tasks in `direct` that may take the short way.
        """
        news = [_row(message) for message in self._wording([notice for notice in notices if notice.type])]
        pointers = [_pointer_row(notice, direct) for notice in notices if notice.asks_for_work]
        columns = _columns(news, 10)
        written = []
        if pointers:
            written = await self.pg.fetch(_BOTH, *columns, *_columns(pointers, 9))
        elif news:
            await self.pg.execute(_NEWS, *columns)
        if news:
            self.due.add(Due.NEWS)
        short = {row["task_id"]: row["seq"] for row in written if row["lane"] == DIRECT_LANE}
        if len(short) < len(written):
            self.due.add(Due.WORK)
        return short


class Outgoing:
    """Opens such transactions."""

    def __init__(self, database: Database, wording: Wording, wake: Wake) -> None:
        self._database = database
        self._wording = wording
        self._wake = wake

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One transaction; after its commit those are woken who have something to do now."""
        async with self._database.driver() as pg:
            transaction = Transaction(pg, self._wording)
            yield transaction
        if transaction.due:
            self._wake(transaction.due)


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _row(message: Message) -> tuple[object, ...]:
    return (
        message.id,
        message.exchange,
        message.routing_key,
        message.type,
        message.body,
        message.subject,
        message.sequence,
        message.time,
        message.source,
        message.traceparent,
    )


def _pointer_row(notice: Notice, direct: Collection[str]) -> tuple[object, ...]:
    return (
        notice.group,
        notice.priority,
        notice.owner_id,
        notice.kind,
        notice.task_id,
        notice.attempt,
        notice.traceparent,
        notice.at,
        DIRECT_LANE if notice.task_id in direct else "",
    )
