"""Usage in Postgres. Charges wait in a bounded buffer and one writer takes them over in batches, so no request waits
for the database; what the bound keeps out is counted and logged.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from chassis.database import Database
from chassis.errors import MeshError
from chassis.lifecycle import Host
from chassis.logging import get_logger
from services.llm.model import Charge, ModelUsage
from services.llm.tables import usage

log = get_logger(__name__)

_BATCH_ROWS = 1000
# How long a charge waits at most while everything is well; longer batches are cheaper a row.
_EVERY_SECONDS = 0.5
_AGAIN_SECONDS = 1.0

# The ids are chosen before the first try, so a batch whose commit got lost on the way is not counted twice.
_INSERT = """
INSERT INTO llm.usage (id, at, user_id, api_key_id, model, provider, outcome,
                       input_tokens, output_tokens, duration_seconds)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::bigint[], $9::bigint[], $10::double precision[])
ON CONFLICT (id) DO NOTHING
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    ids: list[UUID]
    charges: list[Charge]

    def columns(self) -> tuple[list[Any], ...]:
        charges = self.charges
        return (
            self.ids,
            [charge.at for charge in charges],
            [_text(charge.user_id) for charge in charges],
            [_text(charge.api_key_id) for charge in charges],
            [_text(charge.model) for charge in charges],
            [charge.provider for charge in charges],
            [charge.outcome for charge in charges],
            [charge.usage.input_tokens for charge in charges],
            [charge.usage.output_tokens for charge in charges],
            [charge.duration_seconds for charge in charges],
        )


class UsageWriter:
    """The ledger.

    Args:
        bound: how many charges may wait while Postgres is away; about 500 bytes each.
    """

    def __init__(self, database: Database, *, bound: int) -> None:
        self._database = database
        self._bound = bound
        self._waiting: list[Charge] = []
        self._batch: _Batch | None = None
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._failing = False
        self.lost = 0

    def record(self, charge: Charge) -> None:
        """Takes a charge; see `services.llm.ports.Ledger`."""
        if len(self._waiting) >= self._bound:
            if not self.lost:
                log.error("The usage buffer is full; charges are lost from now on", bound=self._bound)
            self.lost += 1
            return
        self._waiting.append(charge)
        if len(self._waiting) == _BATCH_ROWS:
            self._wake.set()

    @property
    def backlog(self) -> int:
        """Charges that are not in Postgres yet."""
        return len(self._waiting) + (len(self._batch.charges) if self._batch is not None else 0)

    async def run(self) -> None:
        """Writes what is waiting, for ever."""
        while True:
            try:
                async with asyncio.timeout(_EVERY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                # Few charges came: they go now all the same.
                pass
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Returns when everything recorded so far is in Postgres, however long Postgres is away."""
        async with self._writing:
            while self.backlog:
                if not await self._write():
                    await asyncio.sleep(_AGAIN_SECONDS)

    async def _write(self) -> bool:
        batch = self._batch or self._cut()
        self._batch = batch
        try:
            async with self._database.driver() as connection:
                await connection.execute(_INSERT, *batch.columns())
        except Exception as error:  # noqa: BLE001 - whatever ails the database, the charges stay until they are in it
            if not self._failing:
                private = error.private if isinstance(error, MeshError) else repr(error)
                log.warning("Usage waits for the database", error=private, backlog=self.backlog)
            self._failing = True
            return False
        self._batch = None
        self._recovered()
        return True

    def _cut(self) -> _Batch:
        charges, self._waiting = self._waiting[:_BATCH_ROWS], self._waiting[_BATCH_ROWS:]
        return _Batch(ids=[uuid7() for _ in charges], charges=charges)

    def _recovered(self) -> None:
        if self._failing:
            log.info("Usage reaches the database again", backlog=self.backlog, lost=self.lost)
        self._failing, self.lost = False, 0


def _text(value: str) -> str:
    """Postgres has no NUL in text, and one such name must not hold up the batch it is in."""
    return value.replace("\0", "\ufffd")


@asynccontextmanager
async def open_usage(host: Host, database: Database, bound: int) -> AsyncIterator[UsageWriter]:
    """The ledger, with its writer running; flushed on drain. What does not reach Postgres by the end is logged."""
    writer = UsageWriter(database, bound=bound)
    host.spawn("usage", writer.run())
    host.on_drain("usage", writer.flush)
    try:
        yield writer
    finally:
        if writer.backlog or writer.lost:
            log.error("Charges are lost", rows=writer.backlog + writer.lost)


class UsageBook:
    """Usage looked up; see `services.llm.ports.UsageBook`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def totals(self, user_id: str, since: datetime | None) -> tuple[ModelUsage, ...]:
        """The charges by model."""
        query = (
            select(
                usage.c.model,
                func.count().label("requests"),
                func.count().filter(usage.c.outcome.not_in(("ok", "cancelled"))).label("failures"),
                func.sum(usage.c.input_tokens).label("input_tokens"),
                func.sum(usage.c.output_tokens).label("output_tokens"),
            )
            .group_by(usage.c.model)
            .order_by(usage.c.model)
        )
        if user_id:
            query = query.where(usage.c.user_id == _text(user_id))
        if since is not None:
            query = query.where(usage.c.at >= since)
        async with self._database.transaction() as connection:
            rows = await connection.execute(query)
            return tuple(_total(row) for row in rows)


def _total(row: Any) -> ModelUsage:
    return ModelUsage(
        model=row.model,
        requests=row.requests,
        failures=row.failures,
        input_tokens=int(row.input_tokens),
        output_tokens=int(row.output_tokens),
    )
