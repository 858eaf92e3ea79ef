"""WebhookService: decode, operate, encode."""

# ruff: noqa: N802 - the contract's names

from typing import Any

from mesh.tasks.v1 import webhooks_pb2, webhooks_pb2_grpc

from chassis.clock import Clock
from chassis.telemetry import current_traceparent
from services.tasks.model.webhooks import Webhook
from services.tasks.operations.webhooks import Webhooks
from services.tasks.wire import webhooks as wire
from services.tasks.wire.times import time_from


class WebhookService(webhooks_pb2_grpc.WebhookServiceServicer):
    """See the contract."""

    def __init__(self, webhooks: Webhooks, clock: Clock) -> None:
        self._webhooks = webhooks
        self._clock = clock

    def _shown(self, webhook: Webhook) -> webhooks_pb2.Webhook:
        return wire.to_webhook(webhook, self._clock.now())

    async def CreateWebhook(
        self, request: webhooks_pb2.CreateWebhookRequest, context: Any
    ) -> webhooks_pb2.CreateWebhookResponse:
        del context
        webhook = await self._webhooks.create(
            request.owner_id, wire.creation_from(request), request.secret, request.idempotency_key
        )
        return webhooks_pb2.CreateWebhookResponse(webhook=self._shown(webhook), secret=webhook.secret)

    async def GetWebhook(
        self, request: webhooks_pb2.GetWebhookRequest, context: Any
    ) -> webhooks_pb2.GetWebhookResponse:
        del context
        webhook = await self._webhooks.get(request.id, request.owner_id)
        return webhooks_pb2.GetWebhookResponse(webhook=self._shown(webhook))

    async def ListWebhooks(
        self, request: webhooks_pb2.ListWebhooksRequest, context: Any
    ) -> webhooks_pb2.ListWebhooksResponse:
        del context
        webhooks = await self._webhooks.list_webhooks(request.owner_id)
        return webhooks_pb2.ListWebhooksResponse(webhooks=map(self._shown, webhooks))

    async def UpdateWebhook(
        self, request: webhooks_pb2.UpdateWebhookRequest, context: Any
    ) -> webhooks_pb2.UpdateWebhookResponse:
        del context
        webhook = await self._webhooks.update(request.id, request.owner_id, wire.update_from(request))
        return webhooks_pb2.UpdateWebhookResponse(webhook=self._shown(webhook))

    async def DeleteWebhook(
        self, request: webhooks_pb2.DeleteWebhookRequest, context: Any
    ) -> webhooks_pb2.DeleteWebhookResponse:
        del context
        await self._webhooks.delete(request.id, request.owner_id)
        return webhooks_pb2.DeleteWebhookResponse()

    async def RotateSecret(
        self, request: webhooks_pb2.RotateSecretRequest, context: Any
    ) -> webhooks_pb2.RotateSecretResponse:
        del context
        overlap = request.overlap_seconds if request.HasField("overlap_seconds") else None
        webhook = await self._webhooks.rotate(request.id, request.owner_id, request.secret, overlap)
        return webhooks_pb2.RotateSecretResponse(webhook=self._shown(webhook), secret=webhook.secret)

    async def ListDeliveries(
        self, request: webhooks_pb2.ListDeliveriesRequest, context: Any
    ) -> webhooks_pb2.ListDeliveriesResponse:
        del context
        deliveries = await self._webhooks.list_deliveries(wire.page_from(request))
        return webhooks_pb2.ListDeliveriesResponse(deliveries=map(wire.to_delivery, deliveries))

    async def Replay(self, request: webhooks_pb2.ReplayRequest, context: Any) -> webhooks_pb2.ReplayResponse:
        del context
        since = time_from(request.failed_since, "failed_since") if request.HasField("failed_since") else None
        one = request.delivery_id if request.HasField("delivery_id") else None
        replayed = await self._webhooks.replay(request.webhook_id, request.owner_id, one, since)
        return webhooks_pb2.ReplayResponse(replayed=replayed)

    async def Ping(self, request: webhooks_pb2.PingRequest, context: Any) -> webhooks_pb2.PingResponse:
        del context
        delivery = await self._webhooks.ping(request.id, request.owner_id, current_traceparent())
        return webhooks_pb2.PingResponse(delivery=wire.to_delivery(delivery))

    async def Emit(self, request: webhooks_pb2.EmitRequest, context: Any) -> webhooks_pb2.EmitResponse:
        del context
        await self._webhooks.tell([wire.telling_from(event) for event in request.events], current_traceparent())
        return webhooks_pb2.EmitResponse()
