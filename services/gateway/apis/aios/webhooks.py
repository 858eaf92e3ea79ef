"""``/api/webhooks``: where a user is told what ended, and what became of each delivery.

An administrator sees everybody's; what is another user's is not found.
"""

from collections.abc import Awaitable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from mesh.tasks.v1 import webhooks_pb2, webhooks_pb2_grpc

from chassis.errors import Conflict, Exhausted, Invalid
from services.gateway.apis.aios.webhook_shapes import (
    DeliveryView,
    FailedSince,
    NewWebhook,
    Replayed,
    Rotation,
    WebhookChange,
    WebhookOnce,
    WebhookView,
    delivery_shown,
    known_delivery,
    known_webhook,
    once,
    shown,
)
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, IDEMPOTENCY_PARAMETER, idempotency_key
from services.gateway.edge.context import require_scope
from services.gateway.identity.model import Principal
from services.gateway.views import stamp_of

_SCOPE = "webhooks"
_State = Literal["waiting", "delivered", "failed"]
_STATES = {
    "waiting": webhooks_pb2.DELIVERY_STATE_WAITING,
    "delivered": webhooks_pb2.DELIVERY_STATE_DELIVERED,
    "failed": webhooks_pb2.DELIVERY_STATE_FAILED,
}
_CREATION = (
    "Refused, and nothing is kept: an address that is not https (`WEBHOOK_URL`) or leads inside (`WEBHOOK_ADDRESS`), "
    "an event nobody knows (`UNKNOWN_EVENT`), a secret that is none (`WEBHOOK_SECRET`), all 400; one webhook too many "
    "(`TOO_MANY_WEBHOOKS`), 409."
)
_Before = Annotated[str | None, Query(max_length=64, description="The last id of the page before.")]
T = TypeVar("T")


class Webhooks:
    """The routes."""

    def __init__(self, webhooks: "webhooks_pb2_grpc.WebhookServiceAsyncStub") -> None:
        self._webhooks = webhooks

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/webhooks", tags=["aios"], route_class=StrictRoute)

        def add(path: str, endpoint: Any, method: str, operation: str, summary: str, **more: Any) -> None:
            router.add_api_route(
                path, endpoint, methods=[method], operation_id=f"aios_{operation}", summary=summary, **more
            )

        one, delivery = "/{webhook_id}", "/{webhook_id}/deliveries/{delivery_id}"
        add("", self.list_webhooks, "GET", "list_webhooks", "List webhooks, newest first")
        summary = "Be told what ended; shows the secret once"
        more = {"description": _CREATION, "openapi_extra": {"parameters": [IDEMPOTENCY_PARAMETER]}}
        add("", self.create, "POST", "create_webhook", summary, status_code=201, **more)
        add(one, self.get, "GET", "get_webhook", "Look at a webhook")
        add(one, self.change, "PATCH", "change_webhook", "Change a webhook; enabling forgives its failures")
        add(one, self.delete, "DELETE", "delete_webhook", "Delete a webhook and its log", status_code=204)
        add(f"{one}/secret", self.rotate, "POST", "rotate_webhook_secret", "Sign with a new secret; shows it once")
        add(f"{one}/test", self.ping, "POST", "test_webhook", "Send `webhook.ping` to it", status_code=202)
        add(f"{one}/deliveries", self.list_deliveries, "GET", "list_deliveries", "Its deliveries, newest first")
        add(f"{one}/replay", self.replay_failed, "POST", "replay_webhook", "Deliver again what failed since a time")
        add(f"{delivery}/replay", self.replay, "POST", "replay_delivery", "Deliver again, under the same event id")
        return router

    async def create(self, request: Request, body: NewWebhook) -> WebhookOnce:
        principal = require_scope(request.scope, _SCOPE)
        wanted = webhooks_pb2.CreateWebhookRequest(
            owner_id=principal.user_id,
            url=body.url,
            events=body.events,
            description=body.description,
            secret=body.secret or "",
            idempotency_key=idempotency_key(request.headers.get(IDEMPOTENCY_KEY.decode(), "")),
        )
        answer = await _judged(self._webhooks.CreateWebhook(wanted))
        return once(answer.webhook, answer.secret)

    async def list_webhooks(self, request: Request) -> list[WebhookView]:
        owner = _owner(require_scope(request.scope, _SCOPE))
        answer = await self._webhooks.ListWebhooks(webhooks_pb2.ListWebhooksRequest(owner_id=owner))
        return [shown(webhook) for webhook in answer.webhooks]

    async def get(self, request: Request, webhook_id: str) -> WebhookView:
        query = webhooks_pb2.GetWebhookRequest(**_which(request, webhook_id))
        return shown((await self._webhooks.GetWebhook(query)).webhook)

    async def change(self, request: Request, webhook_id: str, body: WebhookChange) -> WebhookView:
        changes = body.model_dump(exclude_none=True)
        wanted = webhooks_pb2.UpdateWebhookRequest(**_which(request, webhook_id), **changes)
        return shown((await _judged(self._webhooks.UpdateWebhook(wanted))).webhook)

    async def delete(self, request: Request, webhook_id: str) -> None:
        await self._webhooks.DeleteWebhook(webhooks_pb2.DeleteWebhookRequest(**_which(request, webhook_id)))

    async def rotate(self, request: Request, webhook_id: str, body: Rotation | None = None) -> WebhookOnce:
        changes = body.model_dump(exclude_none=True) if body else {}
        wanted = webhooks_pb2.RotateSecretRequest(**_which(request, webhook_id), **changes)
        answer = await self._webhooks.RotateSecret(wanted)
        return once(answer.webhook, answer.secret)

    async def ping(self, request: Request, webhook_id: str) -> DeliveryView:
        answer = await self._webhooks.Ping(webhooks_pb2.PingRequest(**_which(request, webhook_id)))
        return delivery_shown(answer.delivery)

    async def list_deliveries(
        self,
        request: Request,
        webhook_id: str,
        state: _State | None = None,
        before: _Before = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> list[DeliveryView]:
        which = _which(request, webhook_id)
        query = webhooks_pb2.ListDeliveriesRequest(
            webhook_id=which["id"],
            owner_id=which["owner_id"],
            limit=limit,
            before=known_delivery(before) if before else "",
            state=_STATES[state] if state else webhooks_pb2.DELIVERY_STATE_UNSPECIFIED,
        )
        return [delivery_shown(each) for each in (await self._webhooks.ListDeliveries(query)).deliveries]

    async def replay(self, request: Request, webhook_id: str, delivery_id: str) -> Replayed:
        return await self._replay(request, webhook_id, delivery_id=known_delivery(delivery_id))

    async def replay_failed(self, request: Request, webhook_id: str, body: FailedSince) -> Replayed:
        return await self._replay(request, webhook_id, failed_since=stamp_of(body.failed_since))

    async def _replay(self, request: Request, webhook_id: str, **what: Any) -> Replayed:
        which = _which(request, webhook_id)
        wanted = webhooks_pb2.ReplayRequest(webhook_id=which["id"], owner_id=which["owner_id"], **what)
        return Replayed(replayed=(await self._webhooks.Replay(wanted)).replayed)


def _owner(principal: Principal) -> str:
    """Whose webhooks may be seen: an administrator sees everybody's."""
    return "" if principal.is_admin else principal.user_id


def _which(request: Request, webhook_id: str) -> dict[str, Any]:
    """The fields that name one webhook, for whoever asks."""
    owner = _owner(require_scope(request.scope, _SCOPE))
    return {"id": known_webhook(webhook_id), "owner_id": owner}


async def _judged(call: Awaitable[T]) -> T:
    """What the call answers. A bound that no waiting mends is a conflict here; unknown events come with the known."""
    try:
        return await call
    except Exhausted as error:
        if error.code != "TOO_MANY_WEBHOOKS":
            raise
        raise Conflict(error.message, code=error.code) from None
    except Invalid as error:
        known = error.details.get("known")
        if not known:
            raise
        details = {"field": "events", "reason": f"{error.message}. Known: {known}"}
        raise Invalid(error.message, code=error.code, details=details) from None
