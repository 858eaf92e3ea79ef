"""The outbox: messages committed together with what they tell about, and the relay that publishes them afterwards.

A message is in the table until the broker has confirmed it, so it is published at least once whatever dies in between;
receivers know a repeated one by its id. Knows nothing of what the messages mean.
"""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import asyncpg
import orjson
from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, Table, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.clock import Clock
from chassis.database import Database, DriverConnection
from chassis.errors import Unavailable
from chassis.logging import get_logger
from chassis.messaging.message import Message
from chassis.retry import backoff_seconds

log = get_logger(__name__)

_BATCH = 500
_POLL_SECONDS = 0.25
_COUNT_EVERY_SECONDS = 1.0
# Rows beyond this are not counted: a bound needs no more, and counting a long table costs.
_COUNT_UP_TO = 1_000_000
_MOST_BACKOFF_SECONDS = 1.0
_FIRST_RETRY_SECONDS = 0.25
_MOST_RETRY_SECONDS = 30.0
# A replica that was woken while another relays looks again this soon.
_LOCKED_OUT_SECONDS = 0.02
_COLUMNS = "id, exchange, routing_key, type, body, subject, sequence, time, source, traceparent, headers"
# Arrays, so that the text is the same for any number of rows and its plan is kept.
_INSERT = f"""
INSERT INTO {{table}} ({_COLUMNS})
SELECT id, exchange, routing_key, type, body, subject, sequence, time, source, traceparent, headers::jsonb
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bigint[], $8::timestamptz[],
    $9::text[], $10::text[], $11::text[]) AS t ({_COLUMNS})
"""  # noqa: S608 - constants of this module and a table's own name


def outbox_table(metadata: MetaData, name: str = "outbox") -> Table:
    """The outbox of a service, in the schema of its metadata.

    A service may also write rows with its own SQL, in one statement with the change they tell about. Only `id`,
    `exchange`, `routing_key`, `type`, `body` and `source` have to be given; `seq` is never given. The meaning of each
    column is that of Message's field of the same name; `id` must be unique over all messages ever sent.
    """
    return Table(
        name,
        metadata,
        Column("seq", BigInteger, primary_key=True, autoincrement=True),
        Column("id", Text, nullable=False),
        Column("exchange", Text, nullable=False),
        Column("routing_key", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("subject", Text, nullable=False, server_default=""),
        Column("sequence", BigInteger, nullable=False, server_default="0"),
        Column("time", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("source", Text, nullable=False),
        Column("traceparent", Text, nullable=False, server_default=""),
        Column("headers", JSONB, nullable=False, server_default="{}"),
    )


async def enqueue(connection: "AsyncConnection | DriverConnection", table: Table, messages: Sequence[Message]) -> None:
    """Writes messages in the caller's transaction, in the order given; they are published after its commit.

    Takes either door of Database: a connection of `transaction` or of `driver`.
    """
    if not messages:
        return
    columns = tuple(list(column) for column in zip(*map(_row, messages), strict=True))
    statement = _INSERT.format(table=_qualified(table))
    if isinstance(connection, AsyncConnection):
        # Not around the dialect: it begins the transaction with the first statement that it sees.
        await connection.exec_driver_sql(statement, columns)
    else:
        await connection.execute(statement, *columns)


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
        orjson.dumps(message.headers).decode(),
    )


def _qualified(table: Table) -> str:
    return ".".join(f'"{part}"' for part in table.fullname.split("."))


class Takes(Protocol):
    """Where a relay's messages go: the broker's `Publisher`, or whatever else says what it took over."""

    async def publish_many(self, messages: Sequence[Message]) -> list[bool]:
        """Of each message whether it was taken over, in order. Raises Unavailable with nothing taken that counts."""


@dataclass(frozen=True, slots=True)
class Form:
    """What the rows of an outbox are.

    Attributes:
        columns: those to read, besides ``seq``.
        messages: what a row says, at least one message; the row goes when all of them are taken over.
        most: rows to read at once.
    """

    columns: str
    messages: Callable[[asyncpg.Record], Sequence[Message]]
    most: int


class Relay:
    """Publishes what is in the outbox, in the order of ``seq``, one replica at a time.

    Rows are deleted by their own numbers and never by "up to": a transaction that took a lower number may commit after
    one with a higher, and its row must still be found. A row that the broker refuses (a full queue, no queue) steps
    aside for a while and lets the ones behind it pass.
    """

    def __init__(
        self, database: Database, table: Table, publisher: Takes, clock: Clock, form: Form | None = None
    ) -> None:
        self._database = database
        self._form = form or _MESSAGES
        self._publisher = publisher
        self._clock = clock
        self._name = table.fullname
        self._lock_key = (0x4F555442 << 32) | zlib.crc32(self._name.encode())
        name = _qualified(table)
        self._fetch = (
            f"SELECT seq, {self._form.columns} FROM {name} WHERE seq <> ALL($1::bigint[]) ORDER BY seq LIMIT $2"  # noqa: S608 - as above
        )
        self._delete = f"DELETE FROM {name} WHERE seq = ANY($1::bigint[])"  # noqa: S608 - as above
        self._count = f"SELECT count(*) FROM (SELECT FROM {name} LIMIT {_COUNT_UP_TO}) AS waiting"  # noqa: S608 - as above
        self._awake = asyncio.Event()
        self._backlog = 0
        self._counted_at = clock.monotonic() - _COUNT_EVERY_SECONDS
        self._aside = Aside()

    @property
    def backlog(self) -> int:
        """Messages that wait, as of about a second ago; for admission bounds."""
        return self._backlog

    def wake(self) -> None:
        """Something was committed by this process: publish it now and not at the next look."""
        self._awake.set()

    async def run(self) -> None:
        """Relays for ever. While the broker or the database is away it waits and loses nothing."""
        failures = 0
        while True:
            woken = self._awake.is_set()
            self._awake.clear()
            try:
                seen = await self.relay_once()
            except Unavailable as error:
                if failures == 0:
                    log.warning("The outbox waits", table=self._name, error=str(error))
                failures += 1
                await self._recount()
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_BACKOFF_SECONDS))
                continue
            failures = 0
            await self._recount()
            if seen is None and woken:
                await asyncio.sleep(_LOCKED_OUT_SECONDS)
                self._awake.set()
            elif seen != self._form.most:
                await self._rest()

    async def relay_once(self) -> int | None:
        """Publishes one batch, deletes what was confirmed, and returns how many rows it looked at.

        None: another replica relays now. Raises Unavailable when the broker or the database is away.
        """
        async with self._database.driver() as driver:
            # Held until the transaction ends: no other replica publishes in between and turns the order around.
            if not await driver.fetchval("SELECT pg_try_advisory_xact_lock($1)", self._lock_key):
                return None
            rows = await driver.fetch(self._fetch, self._aside.waiting(self._clock.monotonic()), self._form.most)
            if not rows:
                return 0
            taken = await self._publish(rows)
            confirmed = [row["seq"] for row in rows if row["seq"] in taken]
            refused = [row["seq"] for row in rows if row["seq"] not in taken]
            self._aside.settle(confirmed, refused, self._clock.monotonic())
            if confirmed:
                await driver.execute(self._delete, confirmed)
        return len(rows)

    async def _publish(self, rows: Sequence[asyncpg.Record]) -> set[int]:
        """The numbers of the rows that were taken over whole."""
        said = [(row["seq"], message) for row in rows for message in self._form.messages(row)]
        outcomes = await self._publisher.publish_many([message for _, message in said])
        refused = {seq for (seq, _), taken in zip(said, outcomes, strict=True) if not taken}
        return {row["seq"] for row in rows} - refused

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._awake.wait()

    async def _recount(self) -> None:
        """The broker may be away and the database not: the backlog grows then, and must be known."""
        now = self._clock.monotonic()
        if now - self._counted_at < _COUNT_EVERY_SECONDS:
            return
        self._counted_at = now
        try:
            async with self._database.statement() as driver:
                self._backlog = await driver.fetchval(self._count)
        except Unavailable as error:
            log.debug("The outbox cannot be counted", table=self._name, error=str(error))


class Aside:
    """Rows that were refused and when each is tried again; pure, times are monotonic seconds."""

    def __init__(self) -> None:
        self._until: dict[int, tuple[float, int]] = {}

    def waiting(self, now: float) -> list[int]:
        """The rows that are not to be tried at `now`."""
        return [seq for seq, (until, _) in self._until.items() if until > now]

    def settle(self, confirmed: Sequence[int], refused: Sequence[int], now: float) -> None:
        """Remembers how an attempt at `now` went: each refusal doubles a row's wait, up to half a minute."""
        for seq in confirmed:
            self._until.pop(seq, None)
        for seq in refused:
            failures = self._until.get(seq, (0.0, 0))[1]
            wait = min(_FIRST_RETRY_SECONDS * 2.0**failures, _MOST_RETRY_SECONDS)
            self._until[seq] = (now + wait, failures + 1)
        # Another replica may have published a row that this one remembers.
        gone = [seq for seq, (until, _) in self._until.items() if until + 2 * _MOST_RETRY_SECONDS < now]
        for seq in gone:
            del self._until[seq]


def _message(row: asyncpg.Record) -> Message:
    return Message(
        exchange=row["exchange"],
        routing_key=row["routing_key"],
        type=row["type"],
        body=row["body"],
        id=row["id"],
        time=row["time"],
        source=row["source"],
        subject=row["subject"],
        sequence=row["sequence"],
        traceparent=row["traceparent"],
        headers=row["headers"],
    )


_MESSAGES = Form(_COLUMNS, lambda row: (_message(row),), _BATCH)
