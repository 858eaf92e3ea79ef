"""Webhooks of owners: made, changed and shown; what they were told, and telling it again.

Another owner's webhooks do not exist for the caller; an empty owner sees all.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from chassis.clock import Clock
from chassis.errors import Conflict, Invalid, NotFound
from services.tasks.model import signing
from services.tasks.model.webhooks import (
    ALL_EVENTS,
    EVENTS,
    PING,
    Delivery,
    Happening,
    HookWish,
    Once,
    Page,
    Telling,
    Webhook,
    is_known,
)
from services.tasks.operations import checks
from services.tasks.operations.deliveries import give_up_all
from services.tasks.ports import DeliveryStore, Post, WebhookStore

MOST_LISTED = 1000
MOST_REPLAYED = 1000
MOST_TOLD = 1000
MOST_DATA_BYTES = 16 * 1024
DELIVERIES_PAGE, MOST_DELIVERIES = 50, 200
OVERLAP_SECONDS, MOST_OVERLAP_SECONDS = 86_400, 604_800
_MOST_DESCRIPTION = 500
_EVENT_ID = re.compile(r"[A-Za-z0-9_\-]{1,100}\Z")
_WEBHOOK_ID = re.compile(r"hook_[0-9A-HJKMNP-TV-Z]{26}\Z")
_DELIVERY_ID = re.compile(r"dlv_[0-9A-HJKMNP-TV-Z]{26}\Z")


class Webhooks:
    """The use cases.

    Args:
        most_per_owner: webhooks.
        new_id: of a webhook, and `new_event_id` of a ping.
    """

    def __init__(
        self,
        webhooks: WebhookStore,
        deliveries: DeliveryStore,
        post: Post,
        *,
        clock: Clock,
        most_per_owner: int,
        new_id: Callable[[], str],
        new_event_id: Callable[[], str],
    ) -> None:
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._post = post
        self._clock = clock
        self._most_per_owner = most_per_owner
        self._new_id = new_id
        self._new_event_id = new_event_id

    async def create(self, owner_id: str, wish: HookWish, secret: str, idempotency_key: str = "") -> Webhook:
        """The webhook with its secret, which is made when it is empty; under a key that was used before, the same.

        Raises Invalid (``WEBHOOK_URL``, ``WEBHOOK_ADDRESS``, ``UNKNOWN_EVENT``, ``WEBHOOK_SECRET``), Exhausted
        (``TOO_MANY_WEBHOOKS``), Conflict (``IDEMPOTENCY_MISMATCH``).
        """
        checks.check_text("owner_id", owner_id, required=True)
        checks.check_text("idempotency_key", idempotency_key)
        fresh = Webhook(
            webhook_id=self._new_id(),
            owner_id=owner_id,
            url="",
            events=(ALL_EVENTS,),
            description="",
            enabled=True,
            disabled_reason="",
            secret=signing.check_secret(secret) if secret else signing.make_secret(),
            old_secret=None,
            old_until=None,
            created_at=self._clock.now(),
            last_delivered_at=None,
        )
        await self._check(replace(wish, url=wish.url or ""))
        webhook = _wished(fresh, wish)
        once = Once(key=idempotency_key, fingerprint=_fingerprint(wish, secret)) if idempotency_key else None
        return await self._webhooks.add_webhook(webhook, self._most_per_owner, once)

    async def get(self, webhook_id: str, owner_id: str) -> Webhook:
        """Raises NotFound (``WEBHOOK_NOT_FOUND``)."""
        checks.check_text("owner_id", owner_id)
        known = await self._webhooks.find_webhook(webhook_id, owner_id) if _WEBHOOK_ID.match(webhook_id) else None
        if known is None:
            raise _unknown()
        return known

    async def list_webhooks(self, owner_id: str) -> Sequence[Webhook]:
        """Newest first."""
        checks.check_text("owner_id", owner_id)
        return await self._webhooks.list_webhooks(owner_id, MOST_LISTED)

    async def update(self, webhook_id: str, owner_id: str, wish: HookWish) -> Webhook:
        """Changes what is wished. Raises NotFound, and Invalid as `create`."""
        await self.get(webhook_id, owner_id)
        await self._check(wish)
        changed = await self._webhooks.change_webhook(webhook_id, owner_id, lambda found: _wished(found, wish))
        if changed is None:
            raise _unknown()
        if not changed.enabled:
            await give_up_all(self._deliveries, webhook_id, "The webhook was disabled")
        return changed

    async def delete(self, webhook_id: str, owner_id: str) -> None:
        """Raises NotFound."""
        await self.get(webhook_id, owner_id)
        if not await self._webhooks.delete_webhook(webhook_id, owner_id):
            raise _unknown()

    async def rotate(self, webhook_id: str, owner_id: str, secret: str, overlap_seconds: int | None) -> Webhook:
        """A new secret; the old one signs beside it for so long. Raises NotFound, Invalid (``WEBHOOK_SECRET``)."""
        await self.get(webhook_id, owner_id)
        overlap = OVERLAP_SECONDS if overlap_seconds is None else overlap_seconds
        if overlap > MOST_OVERLAP_SECONDS:
            raise _bad("overlap_seconds", f"At most {MOST_OVERLAP_SECONDS}")
        new = signing.check_secret(secret) if secret else signing.make_secret()
        until = self._clock.now() + timedelta(seconds=overlap)

        def turn(found: Webhook) -> Webhook:
            # The same secret again is the repetition of a call.
            same = new == found.secret
            return found if same else replace(found, secret=new, old_secret=found.secret, old_until=until)

        rotated = await self._webhooks.change_webhook(webhook_id, owner_id, turn)
        if rotated is None:
            raise _unknown()
        return rotated

    async def list_deliveries(self, page: Page) -> Sequence[Delivery]:
        """A page of a webhook's log. A limit of 0 means 50. Raises NotFound, Invalid."""
        await self.get(page.webhook_id, page.owner_id)
        if page.limit > MOST_DELIVERIES:
            raise _bad("limit", f"At most {MOST_DELIVERIES}")
        if page.before and not _DELIVERY_ID.match(page.before):
            raise _bad("before", "Not a delivery's id")
        wanted = replace(page, limit=page.limit or DELIVERIES_PAGE)
        return await self._deliveries.list_deliveries(wanted, signing.payload_of_task)

    async def replay(
        self, webhook_id: str, owner_id: str, delivery_id: str | None, failed_since: datetime | None
    ) -> int:
        """Tries one again, or what failed of all that was written down since. Answers how many.

        Raises NotFound (also ``DELIVERY_NOT_FOUND``), Conflict (``WEBHOOK_DISABLED``).
        """
        if delivery_id is None and failed_since is None:
            raise _bad("what", "A delivery, or a time")
        await self._get_enabled(webhook_id, owner_id)
        known = delivery_id is None or _DELIVERY_ID.match(delivery_id) is not None
        replayed = (
            await self._deliveries.replay(webhook_id, delivery_id, failed_since, MOST_REPLAYED) if known else None
        )
        if replayed is None:
            raise NotFound("There is no such delivery", code="DELIVERY_NOT_FOUND")
        return replayed

    async def ping(self, webhook_id: str, owner_id: str, traceparent: str) -> Delivery:
        """Raises NotFound, Conflict (``WEBHOOK_DISABLED``)."""
        webhook = await self._get_enabled(webhook_id, owner_id)
        now = self._clock.now()
        happening = Happening(
            event_id=self._new_event_id(),
            owner_id=webhook.owner_id,
            type=PING,
            at=now,
            payload=signing.payload_of(PING, now, {"webhook_id": webhook_id}),
            traceparent=traceparent,
        )
        return await self._deliveries.tell_one(webhook_id, happening)

    async def tell(self, tellings: Sequence[Telling], traceparent: str) -> None:
        """Events of other services, each told once. Raises Invalid, with the number as `index`; none is kept then."""
        if len(tellings) > MOST_TOLD:
            raise _bad("events", f"At most {MOST_TOLD}")
        happenings = [_happening(index, telling, traceparent) for index, telling in enumerate(tellings)]
        if happenings:
            await self._deliveries.tell(happenings)

    async def _get_enabled(self, webhook_id: str, owner_id: str) -> Webhook:
        webhook = await self.get(webhook_id, owner_id)
        if not webhook.enabled:
            raise Conflict("The webhook is disabled", code="WEBHOOK_DISABLED")
        return webhook

    async def _check(self, wish: HookWish) -> None:
        checks.check_text("description", wish.description or "", most=_MOST_DESCRIPTION)
        unknown = [event for event in wish.events or () if not is_known(event)]
        if unknown:
            raise _unknown_event("events", unknown[0])
        if wish.url is not None:
            await self._post.check(wish.url)


def _fingerprint(wish: HookWish, secret: str) -> bytes:
    return hashlib.sha256(repr((wish, secret)).encode()).digest()


def _wished(webhook: Webhook, wish: HookWish) -> Webhook:
    enabled = webhook.enabled if wish.enabled is None else wish.enabled
    return replace(
        webhook,
        url=webhook.url if wish.url is None else wish.url,
        events=tuple(dict.fromkeys(wish.events)) if wish.events else webhook.events,
        description=webhook.description if wish.description is None else wish.description,
        enabled=enabled,
        disabled_reason="" if wish.enabled is not None else webhook.disabled_reason,
    )


def _happening(index: int, telling: Telling, traceparent: str) -> Happening:
    try:
        if not _EVENT_ID.match(telling.event_id):
            raise _bad("id", "1 to 100 letters, digits, _ and -")
        checks.check_text("owner_id", telling.owner_id, required=True)
        if telling.type not in EVENTS:
            raise _unknown_event("type", telling.type)
        data = checks.check_document("data", telling.data, MOST_DATA_BYTES)
        if not isinstance(data, dict):
            raise _bad("data", "A JSON object")
        payload = signing.fit(signing.payload_of(telling.type, telling.at, signing.parse(telling.data)))
    except Invalid as error:
        raise Invalid(error.message, code=error.code, details={**error.details, "index": str(index)}) from error
    return Happening(
        event_id=telling.event_id,
        owner_id=telling.owner_id,
        type=telling.type,
        at=telling.at,
        payload=payload,
        traceparent=traceparent,
    )


def _bad(field: str, message: str) -> Invalid:
    return Invalid(f"{field}: {message}", details={"field": field})


def _unknown_event(field: str, event: str) -> Invalid:
    shown = checks.clean_text(event, 100)
    known = ", ".join(EVENTS)
    return Invalid(
        f"{field}: There is no event {shown}", code="UNKNOWN_EVENT", details={"field": field, "known": known}
    )


def _unknown() -> NotFound:
    return NotFound("There is no such webhook", code="WEBHOOK_NOT_FOUND")
