"""Deliveries on their way: written down, taken for a try by one process at a time, settled by whoever holds them."""

# ruff: noqa: S608 - what is put into these statements are numbers of the model and fixed column lists

from collections.abc import Mapping, Sequence

from chassis.database import Database
from services.tasks.model.states import Due
from services.tasks.model.tries import MOST_TRIES_LOGGED, Share
from services.tasks.model.webhooks import (
    Delivery,
    DeliveryState,
    Happening,
    Parcel,
    Reason,
    Settlement,
    patterns_of,
)
from services.tasks.ports import Render
from services.tasks.store.delivery_rows import to_delivery, to_log, to_parcel, to_payload
from services.tasks.store.outgoing import Outgoing

_WAITING, _DELIVERED, _FAILED = (f"{state:d}" for state in DeliveryState)

# The webhooks that something waits for, each found by one step in the index, however much waits; then of each the first
# that are due, as many as it may have under way; then of each owner the same. Owners take turns: whoever has less under
# way comes first.
_DUE = f"""
WITH RECURSIVE h AS (
  (SELECT webhook_id FROM tasks.webhook_delivery WHERE state = {_WAITING} ORDER BY webhook_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.webhook_id FROM tasks.webhook_delivery d WHERE d.state = {_WAITING} AND d.webhook_id > h.webhook_id
          ORDER BY d.webhook_id LIMIT 1)
  FROM h WHERE h.webhook_id IS NOT NULL
), b AS (
  SELECT w.owner_id, u.* FROM unnest($4::text[], $5::int[]) AS u(webhook_id, under_way)
  JOIN tasks.webhook w USING (webhook_id)
), c AS (
  SELECT w.owner_id, d.delivery_id, d.due_at,
         row_number() OVER (PARTITION BY h.webhook_id ORDER BY d.due_at) + coalesce(b.under_way, 0) AS place
  FROM h LEFT JOIN tasks.webhook w USING (webhook_id) LEFT JOIN b USING (webhook_id)
  CROSS JOIN LATERAL (
    SELECT delivery_id, due_at FROM tasks.webhook_delivery x
    WHERE x.webhook_id = h.webhook_id AND x.state = {_WAITING} AND x.due_at <= clock_timestamp()
    ORDER BY x.due_at LIMIT $2
  ) AS d
), t AS (
  SELECT delivery_id, due_at, row_number() OVER (PARTITION BY owner_id ORDER BY place, due_at)
         + coalesce((SELECT sum(b.under_way) FROM b WHERE b.owner_id = c.owner_id), 0) AS turn
  FROM c WHERE place <= $2
)
SELECT d.*, w.url, w.secret, w.enabled, CASE WHEN w.old_until > clock_timestamp() THEN w.old_secret END AS old_secret
FROM (SELECT delivery_id FROM t WHERE turn <= $3 ORDER BY turn, due_at LIMIT $1) AS t
JOIN tasks.webhook_delivery d USING (delivery_id) LEFT JOIN tasks.webhook w USING (webhook_id)
WHERE d.state = {_WAITING} AND d.due_at <= clock_timestamp() ORDER BY d.due_at FOR UPDATE OF d SKIP LOCKED
"""

# From the first taking on there is a payload, and it is never made again.
_TAKE = """
UPDATE tasks.webhook_delivery d
SET due_at = clock_timestamp() + make_interval(secs => $3), takes = takes + 1, taken = true,
    payload = coalesce(d.payload, i.payload), facts = NULL, result = NULL
FROM unnest($1::text[], $2::bytea[]) AS i(delivery_id, payload) WHERE d.delivery_id = i.delivery_id
"""

_SETTLE = f"""
UPDATE tasks.webhook_delivery
SET state = $3::smallint, failures = $4, tries = $6, taken = false,
    due_at = CASE WHEN $3 = {_WAITING} THEN clock_timestamp() + make_interval(secs => $5) END,
    ended_at = CASE WHEN $3 <> {_WAITING} THEN clock_timestamp() END
WHERE delivery_id = $1 AND takes = $2 AND state = {_WAITING} RETURNING webhook_id
"""
# Once a second is enough: the row is shared by all that is under way.
_WENT_WELL = """
UPDATE tasks.webhook SET last_delivered_at = clock_timestamp(), failing_since = NULL
WHERE webhook_id = $1 AND (failing_since IS NOT NULL OR last_delivered_at IS NULL
                           OR last_delivered_at <= clock_timestamp() - interval '1 second')
"""
_WENT_WRONG = """
UPDATE tasks.webhook SET failing_since = clock_timestamp() WHERE webhook_id = $1 AND failing_since IS NULL
"""
_DISABLE = """
UPDATE tasks.webhook SET enabled = false, disabled_reason = CASE WHEN $2 THEN $4 ELSE $5 END
WHERE webhook_id = $1 AND enabled AND ($2 OR failing_since <= clock_timestamp() - make_interval(secs => $3))
RETURNING webhook_id
"""

# A line of the log for what is given up without a try.
GIVE_UP = f"""
UPDATE tasks.webhook_delivery d SET state = {_FAILED}, due_at = NULL, taken = false, ended_at = clock_timestamp(),
  tries = jsonb_path_query_array(d.tries, '$[last - {MOST_TRIES_LOGGED - 2} to last]')
          || jsonb_build_object('at', extract(epoch FROM clock_timestamp()), 'error', $2::text)
WHERE delivery_id = ANY($1::text[])
"""
_WAITING_OF = f"""
SELECT delivery_id FROM tasks.webhook_delivery
WHERE webhook_id = $1 AND state = {_WAITING} AND (NOT taken OR due_at <= clock_timestamp())
ORDER BY delivery_id LIMIT $2 FOR UPDATE SKIP LOCKED
"""

_GIVE_BACK = f"""
UPDATE tasks.webhook_delivery d SET due_at = clock_timestamp(), taken = false
FROM unnest($1::text[], $2::int[]) AS i(delivery_id, takes)
WHERE d.delivery_id = i.delivery_id AND d.takes = i.takes AND d.state = {_WAITING}
"""

_TELL = """
INSERT INTO tasks.webhook_delivery (delivery_id, webhook_id, event_id, type, at, payload, traceparent)
SELECT tasks.delivery_id(), w.webhook_id, i.event_id, i.type, i.at, i.payload, i.traceparent
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bytea[], $6::text[], $7::text[])
  AS i(event_id, owner_id, type, at, payload, traceparent, patterns)
JOIN tasks.webhook w ON w.owner_id = i.owner_id AND w.enabled AND w.events && string_to_array(i.patterns, ' ')
ON CONFLICT (webhook_id, event_id) DO NOTHING RETURNING 1 AS told
"""
_TELL_ONE = """
INSERT INTO tasks.webhook_delivery (delivery_id, webhook_id, event_id, type, at, payload, traceparent)
VALUES (tasks.delivery_id(), $1, $2, $3, $4, $5, $6) RETURNING *
"""


class Deliveries:
    """The couriers' part of `ports.DeliveryStore`."""

    def __init__(self, database: Database, outgoing: Outgoing) -> None:
        self._database = database
        self._outgoing = outgoing

    async def tell(self, happenings: Sequence[Happening]) -> None:
        """See `ports.DeliveryStore`."""
        rows = [
            (h.event_id, h.owner_id, h.type, h.at, h.payload, h.traceparent, " ".join(patterns_of(h.type)))
            for h in happenings
        ]
        async with self._outgoing.transaction() as transaction:
            columns = [list(column) for column in zip(*rows, strict=True)]
            if await transaction.pg.fetch(_TELL, *columns):
                transaction.due.add(Due.DELIVERIES)

    async def tell_one(self, webhook_id: str, happening: Happening) -> Delivery:
        """See `ports.DeliveryStore`."""
        h = happening
        async with self._outgoing.transaction() as transaction:
            row = await transaction.pg.fetchrow(
                _TELL_ONE, webhook_id, h.event_id, h.type, h.at, h.payload, h.traceparent
            )
            transaction.due.add(Due.DELIVERIES)
        return to_delivery(row, h.payload)

    async def take(
        self, limit: int, share: Share, under_way: Mapping[str, int], *, lease_seconds: float, render: Render
    ) -> tuple[int, Sequence[Parcel]]:
        """See `ports.DeliveryStore`."""
        bounds = limit, share.per_webhook, share.per_owner
        async with self._database.driver() as pg:
            rows = await pg.fetch(_DUE, *bounds, list(under_way), list(under_way.values()))
            dead = [row["delivery_id"] for row in rows if not row["enabled"]]
            if dead:
                await pg.execute(GIVE_UP, dead, "The webhook was disabled")
            parcels = [to_parcel(row, to_payload(row, render)) for row in rows if row["enabled"]]
            if parcels:
                ids, payloads = [one.delivery_id for one in parcels], [one.payload for one in parcels]
                await pg.execute(_TAKE, ids, payloads, lease_seconds)
        return len(rows), parcels

    async def settle_delivery(self, parcel: Parcel, settlement: Settlement, failing_seconds: float) -> bool:
        """See `ports.DeliveryStore`."""
        async with self._database.driver() as pg:
            webhook_id = await pg.fetchval(
                _SETTLE,
                parcel.delivery_id,
                parcel.number,
                settlement.state,
                settlement.failures,
                settlement.delay_seconds,
                to_log(settlement.tries),
            )
            if webhook_id is None:
                return False
            if settlement.state is DeliveryState.DELIVERED:
                await pg.execute(_WENT_WELL, webhook_id)
                return False
            await pg.execute(_WENT_WRONG, webhook_id)
            disabled = await pg.fetchval(
                _DISABLE, webhook_id, settlement.gone, failing_seconds, Reason.GONE, Reason.FAILING
            )
        return disabled is not None

    async def give_up(self, webhook_id: str, words: str, limit: int) -> int:
        """See `ports.DeliveryStore`."""
        async with self._database.driver() as pg:
            ids = [row["delivery_id"] for row in await pg.fetch(_WAITING_OF, webhook_id, limit)]
            await pg.execute(GIVE_UP, ids, words)
        return len(ids)

    async def give_back(self, parcels: Sequence[Parcel]) -> None:
        """See `ports.DeliveryStore`."""
        async with self._database.driver() as pg:
            await pg.execute(_GIVE_BACK, [one.delivery_id for one in parcels], [one.number for one in parcels])
