"""``WS /api/ws/{user_id}``: what happens to a user's executions, as it happens."""

from fastapi import APIRouter, WebSocket

from chassis.errors import Forbidden
from services.gateway.apis.watching import watch_credential
from services.gateway.edge.context import require_scope
from services.gateway.identity.model import Principal
from services.gateway.identity.operations import Identity
from services.gateway.live.hub import Hub
from services.gateway.live.session import serve


class Sockets:
    """The route. Refusals are raised before the handshake is answered, so the edge answers it with their status."""

    def __init__(self, hub: Hub, identity: Identity) -> None:
        self._hub = hub
        self._identity = identity

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_websocket_route("/api/ws/{user_id}", self.watch)
        return router

    async def watch(self, websocket: WebSocket, user_id: str) -> None:
        principal = require_scope(websocket.scope, "agents")
        with self._hub.joined(_room(principal, user_id)) as mailbox:
            await websocket.accept()
            await serve(websocket, mailbox, watch_credential(self._identity, websocket.scope))


def _room(principal: Principal, user_id: str) -> str:
    """Whose events are watched: one's own, by id or by name, or anybody's for an administrator. Raises Forbidden."""
    if user_id in {principal.user_id, principal.username}:
        return principal.user_id
    if principal.is_admin:
        return user_id
    raise Forbidden("Another user's events")
