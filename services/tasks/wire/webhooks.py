"""Webhooks, their deliveries, and events to be told."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from datetime import datetime

from mesh.tasks.v1 import webhooks_pb2

from chassis.errors import Invalid
from services.tasks.model.webhooks import Delivery, DeliveryState, HookWish, Page, Telling, Try, Webhook
from services.tasks.wire.times import set_time, time_from, to_time


def creation_from(request: webhooks_pb2.CreateWebhookRequest) -> HookWish:
    return HookWish(url=request.url, events=tuple(request.events) or None, description=request.description)


def update_from(request: webhooks_pb2.UpdateWebhookRequest) -> HookWish:
    return HookWish(
        url=request.url if request.HasField("url") else None,
        events=tuple(request.events) or None,
        description=request.description if request.HasField("description") else None,
        enabled=request.enabled if request.HasField("enabled") else None,
    )


def to_webhook(webhook: Webhook, now: datetime) -> webhooks_pb2.Webhook:
    message = webhooks_pb2.Webhook(
        id=webhook.webhook_id,
        owner_id=webhook.owner_id,
        url=webhook.url,
        events=webhook.events,
        description=webhook.description,
        enabled=webhook.enabled,
        disabled_reason=webhook.disabled_reason,
        created_at=to_time(webhook.created_at),
    )
    set_time(message.last_delivered_at, webhook.last_delivered_at)
    if webhook.old_until is not None and webhook.old_until > now:
        message.rotated_until.CopyFrom(to_time(webhook.old_until))
    return message


def page_from(request: webhooks_pb2.ListDeliveriesRequest) -> Page:
    """Raises Invalid for a state that is none."""
    if request.state not in {0, *DeliveryState}:
        raise Invalid("state: Unknown state", details={"field": "state"})
    return Page(
        webhook_id=request.webhook_id,
        owner_id=request.owner_id,
        limit=request.limit,
        before=request.before,
        state=DeliveryState(request.state) if request.state else None,
    )


def to_delivery(delivery: Delivery) -> webhooks_pb2.Delivery:
    message = webhooks_pb2.Delivery(
        id=delivery.delivery_id,
        webhook_id=delivery.webhook_id,
        event_id=delivery.event_id,
        type=delivery.type,
        # The numbers are the same on both sides; a test holds them together.
        state=webhooks_pb2.DeliveryState.ValueType(delivery.state),
        created_at=to_time(delivery.created_at),
        body=delivery.body,
        tries=map(_to_try, delivery.tries),
    )
    set_time(message.next_at, delivery.next_at)
    set_time(message.delivered_at, delivery.delivered_at)
    return message


def _to_try(one: Try) -> webhooks_pb2.DeliveryTry:
    return webhooks_pb2.DeliveryTry(at=to_time(one.at), status=one.status, duration_ms=one.duration_ms, error=one.error)


def telling_from(event: webhooks_pb2.WebhookEvent) -> Telling:
    """Raises Invalid for a time that is none."""
    return Telling(
        event_id=event.id,
        owner_id=event.owner_id,
        type=event.type,
        at=time_from(event.at, "at"),
        data=event.data,
    )
