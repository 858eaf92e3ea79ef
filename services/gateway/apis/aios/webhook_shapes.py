"""Shapes of ``/api/webhooks``, and webhooks and deliveries as they show them."""

from typing import Annotated, Any, Literal

from mesh.tasks.v1 import webhooks_pb2
from pydantic import BaseModel, Field, StringConstraints

from chassis.errors import NotFound
from services.gateway import views
from services.gateway.apis.ids import is_delivery_id, is_webhook_id
from services.gateway.apis.shapes import WHOLE, Body, Moment
from services.gateway.views import Instant

Url = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
EventName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[a-z_.]*\*?$")]
EventNames = Annotated[list[EventName], Field(max_length=50)]
Description = Annotated[str, StringConstraints(max_length=500)]
Secret = Annotated[str, StringConstraints(max_length=128, pattern=r"^whsec_[A-Za-z0-9+/]+={0,2}$")]
OverlapSeconds = Annotated[int, Field(ge=0, le=604_800), WHOLE]

_STATES = {
    webhooks_pb2.DELIVERY_STATE_WAITING: "waiting",
    webhooks_pb2.DELIVERY_STATE_DELIVERED: "delivered",
    webhooks_pb2.DELIVERY_STATE_FAILED: "failed",
}


class NewWebhook(Body):
    """Where to tell what. `events` are names; `task.*` and `*` stand for all that begin so, and none for all."""

    url: Url = Field(examples=["https://example.com/hooks/agentmesh"], description="https, and no private address.")
    events: EventNames = Field(default=[], examples=[["agent.execution.completed", "task.*"]])
    description: Description = Field(default="", examples=["Nightly reports"])
    secret: Secret | None = Field(
        default=None, description="`whsec_` and base64 of 24 to 64 bytes; without one, one is made."
    )


class WebhookChange(Body):
    """What is to change; fields that are absent or null stay."""

    url: Url | None = None
    events: Annotated[list[EventName], Field(min_length=1, max_length=50)] | None = None
    description: Description | None = None
    enabled: bool | None = None


class Rotation(Body):
    """The new secret, and for how many seconds the old one signs beside it."""

    secret: Secret | None = Field(
        default=None, description="`whsec_` and base64 of 24 to 64 bytes; without one, one is made."
    )
    overlap_seconds: OverlapSeconds | None = Field(default=None, description="Up to seven days; without it, one day.")


class FailedSince(Body):
    """From when on failed deliveries are made again, at most 1000 at once."""

    failed_since: Moment


class WebhookView(BaseModel):
    """A webhook. `disabled_reason` is `gone` (it answered 410) or `failing` when it was disabled by itself."""

    id: str = Field(examples=["hook_01M7ZG92M43D97A3QZK91F854Z"])
    owner_id: str
    url: str
    events: list[str] = Field(examples=[["task.*", "agent.execution.completed"]])
    description: str
    enabled: bool
    disabled_reason: str | None
    created_at: Instant
    last_delivered_at: Instant | None
    rotated_until: Instant | None = Field(description="When the old secret stops to sign; null when there is one.")


class WebhookOnce(WebhookView):
    """A webhook with its secret, for the only time."""

    secret: str = Field(examples=["whsec_…"])


class DeliveryTry(BaseModel):
    """One try. `status` is the receiver's answer, null when none came."""

    at: Instant
    status: int | None
    duration_ms: int
    error: str | None


class DeliveryView(BaseModel):
    """What became of one event: `event_id` is the header `webhook-id`, the same over all tries and replays.

    `tries` has the last twenty, newest last; `payload` is what is posted, without its signature.
    """

    id: str = Field(examples=["dlv_01M7ZG92SYKW91K8FJ39T8R52H"])
    webhook_id: str = Field(examples=["hook_01M7ZG92M43D97A3QZK91F854Z"])
    event_id: str = Field(examples=["evt_task_01M7ZG9KXA090F0XBMTGYSYE9C_3"])
    event: str = Field(examples=["task.completed"])
    state: Literal["waiting", "delivered", "failed"]
    created_at: Instant
    next_at: Instant | None
    delivered_at: Instant | None
    payload: Any
    tries: list[DeliveryTry]


class Replayed(BaseModel):
    """How many deliveries are made again."""

    replayed: int


def known_webhook(webhook_id: str) -> str:
    """An id that could be a webhook's; anything else is none, without asking."""
    if not is_webhook_id(webhook_id):
        raise NotFound("Webhook not found", code="WEBHOOK_NOT_FOUND")
    return webhook_id


def known_delivery(delivery_id: str) -> str:
    """An id that could be a delivery's; anything else is none, without asking."""
    if not is_delivery_id(delivery_id):
        raise NotFound("Delivery not found", code="DELIVERY_NOT_FOUND")
    return delivery_id


def shown(webhook: webhooks_pb2.Webhook) -> WebhookView:
    """A webhook without its secret."""
    return WebhookView(
        id=webhook.id,
        owner_id=webhook.owner_id,
        url=webhook.url,
        events=list(webhook.events),
        description=webhook.description,
        enabled=webhook.enabled,
        disabled_reason=webhook.disabled_reason or None,
        created_at=views.required_instant(webhook, "created_at"),
        last_delivered_at=views.instant(webhook, "last_delivered_at"),
        rotated_until=views.instant(webhook, "rotated_until"),
    )


def once(webhook: webhooks_pb2.Webhook, secret: str) -> WebhookOnce:
    """A webhook with its secret."""
    return WebhookOnce(**shown(webhook).model_dump(), secret=secret)


def delivery_shown(delivery: webhooks_pb2.Delivery) -> DeliveryView:
    """One delivery with its tries."""
    return DeliveryView.model_validate(
        {
            "id": delivery.id,
            "webhook_id": delivery.webhook_id,
            "event_id": delivery.event_id,
            "event": delivery.type,
            "state": _STATES[delivery.state],
            "created_at": views.required_instant(delivery, "created_at"),
            "next_at": views.instant(delivery, "next_at"),
            "delivered_at": views.instant(delivery, "delivered_at"),
            "payload": views.json_value(delivery.body),
            "tries": [_try_shown(each) for each in delivery.tries],
        }
    )


def _try_shown(one: webhooks_pb2.DeliveryTry) -> dict[str, Any]:
    return {
        "at": views.required_instant(one, "at"),
        "status": one.status or None,
        "duration_ms": one.duration_ms,
        "error": one.error or None,
    }
