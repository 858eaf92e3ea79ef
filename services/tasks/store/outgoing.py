"""What a transaction announces: pointers and news, and who is woken after the commit."""

# ruff: noqa: S608 - what is put into these statements are parts of this module and of its neighbour

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from chassis.database import Database, DriverConnection
from services.tasks.model.states import Due
from services.tasks.model.task import Notice
from services.tasks.store.news import news_of

# Told what a commit has left to do.
Wake = Callable[[Collection[Due]], None]


def pointers_to(source: str) -> str:
    """The part of a statement that writes the pointers to tasks in `source`.

    One of a kind with a bound waits in the lane of its own, unless its attempt has a place already. It goes where its
    kind is done now, which may have moved since the task was accepted.

    Args:
        source: a part with the columns work_group, priority, owner_id, kind, task_id, attempt, traceparent, at.
    """
    return f"""
  INSERT INTO tasks.pointer (lane, work_group, priority, owner_id, task_id, attempt, traceparent, at)
  SELECT CASE WHEN k.max_running > 0 AND NOT EXISTS (
           SELECT 1 FROM tasks.kind_place h WHERE h.kind = m.kind AND h.task_id = m.task_id AND h.attempt = m.attempt
         ) THEN m.kind ELSE '' END,
         coalesce(k.work_group, m.work_group), m.priority, m.owner_id, m.task_id, m.attempt, m.traceparent, m.at
  FROM {source} AS m LEFT JOIN (
    SELECT kind, max_running, work_group FROM tasks.kind
    WHERE kind = ANY(ARRAY(SELECT m.kind FROM {source} AS m)) OFFSET 0
  ) AS k USING (kind)
"""


_ANNOUNCE = f"""
WITH i AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::int[], $7::timestamptz[],
                       $8::bytea[], $9::bytea[], $10::text[], $11::text[], $12::smallint[], $13::bool[])
  AS i(type, kind, task_id, owner_id, sequence, attempt, at, data, labels, traceparent, work_group, priority, points)
), n AS ({news_of(("(SELECT * FROM i WHERE type <> '') AS i", "type"), data="data")})
{pointers_to("(SELECT * FROM i WHERE points)")}
"""


class Transaction:
    """One transaction that may announce something. `due` is what it leaves to do."""

    def __init__(self, pg: DriverConnection) -> None:
        self.pg = pg
        self.due: set[Due] = set()

    async def announce(self, notices: Sequence[Notice]) -> None:
        """Puts the pointers and the news of these notices into this transaction."""
        if not notices:
            return
        await self.pg.execute(_ANNOUNCE, *(list(column) for column in zip(*map(_row, notices), strict=True)))
        if any(notice.type for notice in notices):
            self.due.add(Due.NEWS)
        if any(notice.asks_for_work for notice in notices):
            self.due.add(Due.WORK)


class Outgoing:
    """Opens such transactions."""

    def __init__(self, database: Database, wake: Wake) -> None:
        self._database = database
        self._wake = wake

    @asynccontextmanager
    async def transaction(self, *, single: bool = False) -> AsyncIterator[Transaction]:
        """One transaction; after its commit those are woken who have something to do now.

        Args:
            single: it is one statement, which commits by itself.
        """
        opened = self._database.statement() if single else self._database.driver()
        async with opened as pg:
            transaction = Transaction(pg)
            yield transaction
        if transaction.due:
            self._wake(transaction.due)


def _row(notice: Notice) -> tuple[object, ...]:
    return (
        notice.type,
        notice.kind,
        notice.task_id,
        notice.owner_id,
        notice.sequence,
        notice.attempt,
        notice.at,
        notice.data,
        notice.labels,
        notice.traceparent,
        notice.group,
        notice.priority,
        notice.asks_for_work,
    )
