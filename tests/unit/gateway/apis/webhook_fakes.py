"""Webhooks of the tasks service from memory."""
# ruff: noqa: N802 - the contract names its methods so

from typing import Any

from mesh.tasks.v1 import webhooks_pb2

from chassis.errors import Conflict, MeshError, NotFound
from services.gateway.views import stamp_of
from tests.support.clock import FakeClock

DELIVERY = f"dlv_{7:026d}"
_FIRST, _SECOND = "whsec_" + "A" * 32, "whsec_" + "B" * 32


class FakeWebhooks:
    """Webhooks that deliver nothing; each has one delivery. `failure` is raised by whatever writes."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.webhooks: dict[str, webhooks_pb2.Webhook] = {}
        self.requests: list[Any] = []
        self.failure: MeshError | None = None

    async def CreateWebhook(self, request: Any, **_: Any) -> Any:
        self._heard(request)
        webhook = webhooks_pb2.Webhook(
            id=f"hook_{len(self.webhooks):026d}",
            owner_id=request.owner_id,
            url=request.url,
            events=request.events or ["*"],
            description=request.description,
            enabled=True,
            created_at=stamp_of(self._clock.now()),
        )
        self.webhooks[webhook.id] = webhook
        return webhooks_pb2.CreateWebhookResponse(webhook=webhook, secret=request.secret or _FIRST)

    async def GetWebhook(self, request: Any, **_: Any) -> Any:
        return webhooks_pb2.GetWebhookResponse(webhook=self._webhook(request.id, request.owner_id))

    async def ListWebhooks(self, request: Any, **_: Any) -> Any:
        found = [each for each in self.webhooks.values() if request.owner_id in {"", each.owner_id}]
        return webhooks_pb2.ListWebhooksResponse(webhooks=found[::-1])

    async def UpdateWebhook(self, request: Any, **_: Any) -> Any:
        self._heard(request)
        webhook = self._webhook(request.id, request.owner_id)
        for name in ("url", "description", "enabled"):
            if request.HasField(name):
                setattr(webhook, name, getattr(request, name))
        if request.events:
            webhook.events[:] = request.events
        return webhooks_pb2.UpdateWebhookResponse(webhook=webhook)

    async def DeleteWebhook(self, request: Any, **_: Any) -> Any:
        del self.webhooks[self._webhook(request.id, request.owner_id).id]
        return webhooks_pb2.DeleteWebhookResponse()

    async def RotateSecret(self, request: Any, **_: Any) -> Any:
        self._heard(request)
        webhook = self._webhook(request.id, request.owner_id)
        webhook.rotated_until.CopyFrom(stamp_of(self._clock.now()))  # type: ignore[arg-type]  # a moment has one
        return webhooks_pb2.RotateSecretResponse(webhook=webhook, secret=request.secret or _SECOND)

    async def ListDeliveries(self, request: Any, **_: Any) -> Any:
        self.requests.append(request)
        webhook = self._webhook(request.webhook_id, request.owner_id)
        found = [] if request.before else [self._delivery(webhook)]
        states = {webhooks_pb2.DELIVERY_STATE_UNSPECIFIED, *(each.state for each in found)}
        return webhooks_pb2.ListDeliveriesResponse(deliveries=found if request.state in states else [])

    async def Replay(self, request: Any, **_: Any) -> Any:
        self._heard(request)
        webhook = self._webhook(request.webhook_id, request.owner_id)
        if not webhook.enabled:
            raise Conflict("The webhook is disabled", code="WEBHOOK_DISABLED")
        if request.delivery_id and request.delivery_id != DELIVERY:
            raise NotFound("Delivery not found", code="DELIVERY_NOT_FOUND")
        return webhooks_pb2.ReplayResponse(replayed=1)

    async def Ping(self, request: Any, **_: Any) -> Any:
        webhook = self._webhook(request.id, request.owner_id)
        return webhooks_pb2.PingResponse(delivery=self._delivery(webhook, type_="webhook.ping"))

    def _heard(self, request: Any) -> None:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure

    def _delivery(self, webhook: webhooks_pb2.Webhook, type_: str = "task.completed") -> webhooks_pb2.Delivery:
        now = stamp_of(self._clock.now())
        return webhooks_pb2.Delivery(
            id=DELIVERY,
            webhook_id=webhook.id,
            event_id="evt_1",
            type=type_,
            state=webhooks_pb2.DELIVERY_STATE_FAILED,
            created_at=now,
            body=b'{"event":"%s","data":{}}' % type_.encode(),
            tries=[
                webhooks_pb2.DeliveryTry(at=now, duration_ms=10_000, error="No answer in time"),
                webhooks_pb2.DeliveryTry(at=now, status=500, duration_ms=3, error="Answered with 500"),
            ],
        )

    def _webhook(self, webhook_id: str, owner_id: str) -> webhooks_pb2.Webhook:
        webhook = self.webhooks.get(webhook_id)
        if webhook is None or owner_id not in {"", webhook.owner_id}:
            raise NotFound("Webhook not found", code="WEBHOOK_NOT_FOUND")
        return webhook
