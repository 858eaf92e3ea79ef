"""Webhooks at rest. A deleted one is out of sight at once; its log and at last its row go with the pruning."""

from collections.abc import Sequence
from typing import Any

from chassis.database import Database, DriverConnection
from chassis.errors import Conflict, Exhausted
from services.tasks.model.webhooks import Once, Webhook
from services.tasks.ports import ChangeWebhook
from services.tasks.store.accepting import READ_KEYS, TAKE_KEYS

_COLUMNS = """webhook_id, owner_id, url, events, description, enabled, disabled_reason, secret, old_secret, old_until,
  created_at, last_delivered_at"""

# One owner's are counted and added by one at a time.
_LOCK_OWNER = "SELECT pg_advisory_xact_lock(hashtextextended('webhooks of ' || $1, 0))"
_COUNT = "SELECT count(*) FROM tasks.webhook WHERE owner_id = $1 AND deleted_at IS NULL"
_ADD = f"""
INSERT INTO tasks.webhook ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""  # noqa: S608 - a fixed column list

_FIND = f"""
SELECT {_COLUMNS} FROM tasks.webhook WHERE webhook_id = $1 AND ($2 = '' OR owner_id = $2) AND deleted_at IS NULL
"""  # noqa: S608
_LIST = f"""
SELECT {_COLUMNS} FROM tasks.webhook WHERE ($1 = '' OR owner_id = $1) AND deleted_at IS NULL
ORDER BY webhook_id DESC LIMIT $2
"""  # noqa: S608
# One that is enabled again starts without a past.
_CHANGE = """
UPDATE tasks.webhook
SET url = $2, events = $3, description = $4, enabled = $5, disabled_reason = $6, secret = $7, old_secret = $8,
    old_until = $9, failing_since = CASE WHEN enabled OR NOT $5 THEN failing_since END
WHERE webhook_id = $1
"""
_DELETE = """
UPDATE tasks.webhook SET deleted_at = clock_timestamp(), enabled = false
WHERE webhook_id = $1 AND ($2 = '' OR owner_id = $2) AND deleted_at IS NULL RETURNING webhook_id
"""


class Webhooks:
    """The owners' part of `ports.WebhookStore`."""

    def __init__(self, database: Database, keys_live_seconds: float) -> None:
        self._database = database
        self._keys_live_seconds = keys_live_seconds

    async def add_webhook(self, webhook: Webhook, most: int, once: Once | None) -> Webhook:
        """See `ports.WebhookStore`."""
        async with self._database.driver() as pg:
            await pg.execute(_LOCK_OWNER, webhook.owner_id)
            if once is not None and (earlier := await self._take_key(pg, webhook, once)) is not None:
                return earlier
            if await pg.fetchval(_COUNT, webhook.owner_id) >= most:
                raise Exhausted(f"At most {most} webhooks", code="TOO_MANY_WEBHOOKS")
            await pg.execute(_ADD, *_row(webhook))
        return webhook

    async def _take_key(self, pg: DriverConnection, webhook: Webhook, once: Once) -> Webhook | None:
        """The webhook that was made under the key before, None for a key that is new."""
        names = [webhook.owner_id], [once.key]
        if await pg.fetch(TAKE_KEYS, *names, [once.fingerprint], [webhook.webhook_id], self._keys_live_seconds):
            return None
        (taken,) = await pg.fetch(READ_KEYS, *names)
        row = await pg.fetchrow(_FIND, taken["task_id"], webhook.owner_id)
        # One that was deleted since is no answer, and a second one is not what was asked for.
        if row is None or taken["fingerprint"] != once.fingerprint:
            raise Conflict("This idempotency key was used for another request", code="IDEMPOTENCY_MISMATCH")
        return _webhook(row)

    async def find_webhook(self, webhook_id: str, owner_id: str) -> Webhook | None:
        """See `ports.WebhookStore`."""
        async with self._database.driver() as pg:
            row = await pg.fetchrow(_FIND, webhook_id, owner_id)
        return None if row is None else _webhook(row)

    async def list_webhooks(self, owner_id: str, limit: int) -> Sequence[Webhook]:
        """See `ports.WebhookStore`."""
        async with self._database.driver() as pg:
            rows = await pg.fetch(_LIST, owner_id, limit)
        return [_webhook(row) for row in rows]

    async def change_webhook(self, webhook_id: str, owner_id: str, change: ChangeWebhook) -> Webhook | None:
        """See `ports.WebhookStore`."""
        async with self._database.driver() as pg:
            row = await pg.fetchrow(f"{_FIND} FOR UPDATE", webhook_id, owner_id)
            if row is None:
                return None
            changed = change(_webhook(row))
            await pg.execute(
                _CHANGE,
                webhook_id,
                changed.url,
                changed.events,
                changed.description,
                changed.enabled,
                changed.disabled_reason,
                changed.secret,
                changed.old_secret,
                changed.old_until,
            )
        return changed

    async def delete_webhook(self, webhook_id: str, owner_id: str) -> bool:
        """See `ports.WebhookStore`."""
        async with self._database.driver() as pg:
            return await pg.fetchval(_DELETE, webhook_id, owner_id) is not None


def _row(webhook: Webhook) -> tuple[Any, ...]:
    return (
        webhook.webhook_id,
        webhook.owner_id,
        webhook.url,
        webhook.events,
        webhook.description,
        webhook.enabled,
        webhook.disabled_reason,
        webhook.secret,
        webhook.old_secret,
        webhook.old_until,
        webhook.created_at,
        webhook.last_delivered_at,
    )


def _webhook(row: Any) -> Webhook:
    return Webhook(**{**row, "events": tuple(row["events"])})
