"""What a transaction announces: messages into its outboxes, and the relays woken after the commit.

Knows no wording: notices are turned into messages by a function it is given.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from chassis.database import Database, DriverConnection
from chassis.messaging.message import WORK, Message
from services.tasks.model.task import Notice

Wording = Callable[[Notice], Sequence[Message]]

# Told which outboxes have something new: pointers, news.
Wake = Callable[[bool, bool], None]

# Both outboxes in one round trip, as `chassis.messaging.outbox` allows.
_ENQUEUE = """
WITH m AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bigint[],
                       $8::timestamptz[], $9::text[], $10::text[])
  AS m(id, exchange, routing_key, type, body, subject, sequence, time, source, traceparent)
), w AS (
  INSERT INTO tasks.outbox (id, exchange, routing_key, type, body, subject, sequence, time, source, traceparent)
  SELECT * FROM m WHERE exchange = $11
)
INSERT INTO tasks.outbox_events (id, exchange, routing_key, type, body, subject, sequence, time, source, traceparent)
SELECT * FROM m WHERE exchange <> $11
"""


class Transaction:
    """One transaction that may announce something."""

    def __init__(self, pg: DriverConnection, wording: Wording) -> None:
        self.pg = pg
        self.has_work = False
        self.has_news = False
        self._wording = wording

    async def announce(self, notices: Sequence[Notice]) -> None:
        """Puts the messages of these notices into the outboxes of this transaction."""
        messages = [message for notice in notices for message in self._wording(notice)]
        if not messages:
            return
        await self.pg.execute(_ENQUEUE, *(list(column) for column in zip(*map(_row, messages), strict=True)), WORK)
        self.has_work |= any(message.exchange == WORK for message in messages)
        self.has_news |= any(message.exchange != WORK for message in messages)


class Outgoing:
    """Opens such transactions."""

    def __init__(self, database: Database, wording: Wording, wake: Wake) -> None:
        self._database = database
        self._wording = wording
        self._wake = wake

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One transaction; after its commit the relays of what it announced look at their outboxes."""
        async with self._database.driver() as pg:
            transaction = Transaction(pg, self._wording)
            yield transaction
        if transaction.has_work or transaction.has_news:
            self._wake(transaction.has_work, transaction.has_news)


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
