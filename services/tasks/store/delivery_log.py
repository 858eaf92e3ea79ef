"""The log of deliveries: shown, replayed, and in the end forgotten."""

# ruff: noqa: S608 - what is put into these statements are numbers of the model

from collections.abc import Sequence
from datetime import datetime

from chassis.database import Database
from services.tasks.model.ids import first_id
from services.tasks.model.states import Due
from services.tasks.model.webhooks import Delivery, DeliveryState, Page
from services.tasks.ports import Render
from services.tasks.store.deliveries import GIVE_UP
from services.tasks.store.delivery_rows import to_delivery, to_payload
from services.tasks.store.outgoing import Outgoing

_WAITING, _FAILED = f"{DeliveryState.WAITING:d}", f"{DeliveryState.FAILED:d}"

_PAGE = """
SELECT * FROM tasks.webhook_delivery
WHERE webhook_id = $1 AND ($2 = '' OR delivery_id < $2) AND ($3::smallint IS NULL OR state = $3)
ORDER BY delivery_id DESC LIMIT $4
"""
# What is under way is left alone: it is being tried at this moment. Whoever took it earlier has lost it.
_REPLAY = f"""
UPDATE tasks.webhook_delivery
SET state = {_WAITING}, failures = 0, due_at = clock_timestamp(), ended_at = NULL, taken = false, takes = takes + 1
WHERE delivery_id IN (
  SELECT delivery_id FROM tasks.webhook_delivery
  WHERE webhook_id = $1 AND CASE WHEN $2::text IS NULL THEN state = {_FAILED} AND created_at >= $3
                                 ELSE delivery_id = $2 END
  ORDER BY delivery_id LIMIT $4 FOR UPDATE
) AND NOT (state = {_WAITING} AND taken AND due_at > clock_timestamp())
RETURNING delivery_id
"""
_EXISTS = "SELECT EXISTS (SELECT FROM tasks.webhook_delivery WHERE webhook_id = $1 AND delivery_id = $2)"

_COUNT_WAITING = f"SELECT count(*) FROM tasks.webhook_delivery WHERE state = {_WAITING}"

# An id begins with its time, so what is old is a range of the key.
_PRUNE = f"""
WITH o AS (
  DELETE FROM tasks.webhook_delivery WHERE delivery_id IN (
    SELECT delivery_id FROM tasks.webhook_delivery
    WHERE delivery_id < $1 AND state <> {_WAITING} ORDER BY delivery_id LIMIT $2 FOR UPDATE SKIP LOCKED
  ) RETURNING 1
), g AS (
  DELETE FROM tasks.webhook_delivery WHERE delivery_id IN (
    SELECT d.delivery_id FROM tasks.webhook w JOIN tasks.webhook_delivery d USING (webhook_id)
    WHERE w.deleted_at IS NOT NULL LIMIT $2 FOR UPDATE OF d SKIP LOCKED
  ) RETURNING 1
)
SELECT (SELECT count(*) FROM o) + (SELECT count(*) FROM g)
"""
# Who ended a task of its owner may just have seen it still.
_FORGET_DELETED = """
DELETE FROM tasks.webhook w WHERE w.deleted_at < clock_timestamp() - interval '10 minutes'
  AND NOT EXISTS (SELECT FROM tasks.webhook_delivery d WHERE d.webhook_id = w.webhook_id)
"""
_TOO_MANY = f"""
SELECT webhook_id, count(*) - $1 AS beyond FROM tasks.webhook_delivery WHERE state = {_WAITING}
GROUP BY webhook_id HAVING count(*) > $1
"""
_OLDEST = f"""
SELECT delivery_id FROM tasks.webhook_delivery
WHERE webhook_id = $1 AND state = {_WAITING} AND NOT taken ORDER BY delivery_id LIMIT $2 FOR UPDATE SKIP LOCKED
"""


class DeliveryLog:
    """The rest of `ports.DeliveryStore`."""

    def __init__(self, database: Database, outgoing: Outgoing) -> None:
        self._database = database
        self._outgoing = outgoing

    async def list_deliveries(self, page: Page, render: Render) -> Sequence[Delivery]:
        """See `ports.DeliveryStore`."""
        async with self._database.statement() as pg:
            rows = await pg.fetch(_PAGE, page.webhook_id, page.before, page.state, page.limit)
        return [to_delivery(row, to_payload(row, render)) for row in rows]

    async def replay(
        self, webhook_id: str, delivery_id: str | None, failed_since: datetime | None, limit: int
    ) -> int | None:
        """See `ports.DeliveryStore`."""
        async with self._outgoing.transaction() as transaction:
            pg = transaction.pg
            if delivery_id is not None and not await pg.fetchval(_EXISTS, webhook_id, delivery_id):
                return None
            rows = await pg.fetch(_REPLAY, webhook_id, delivery_id, failed_since, limit)
            transaction.due.add(Due.DELIVERIES)
        return len(rows)

    async def count_waiting(self) -> int:
        """See `ports.DeliveryStore`."""
        async with self._database.statement() as pg:
            waiting: int = await pg.fetchval(_COUNT_WAITING)
        return waiting

    async def prune_deliveries(self, before: datetime, most_waiting: int, limit: int) -> int:
        """See `ports.DeliveryStore`."""
        touched = 0
        async with self._database.driver() as pg:
            for row in await pg.fetch(_TOO_MANY, most_waiting):
                ids = [
                    one["delivery_id"] for one in await pg.fetch(_OLDEST, row["webhook_id"], min(row["beyond"], limit))
                ]
                await pg.execute(GIVE_UP, ids, f"More than {most_waiting} deliveries waited; the oldest were given up")
                touched += len(ids)
        async with self._database.driver() as pg:
            pruned: int = await pg.fetchval(_PRUNE, first_id("dlv", before), limit)
            await pg.execute(_FORGET_DELETED)
        return touched + pruned
