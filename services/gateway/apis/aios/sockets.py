"""``WS /api/ws/{user_id}``: what happens to a user's executions, as it happens."""

from fastapi import APIRouter, WebSocket
from mesh.agents.v1 import agents_pb2, agents_pb2_grpc

from chassis.errors import Forbidden, Unauthenticated, Unavailable
from services.gateway.edge.context import require_scope
from services.gateway.edge.credentials import of_websocket
from services.gateway.identity.model import Principal
from services.gateway.identity.operations import Identity
from services.gateway.live.hub import Hub
from services.gateway.live.session import serve


class Sockets:
    """The route. Refusals are raised before the handshake is answered, so the edge answers it with their status."""

    def __init__(self, hub: Hub, identity: Identity, agents: "agents_pb2_grpc.AgentServiceAsyncStub") -> None:
        self._hub = hub
        self._identity = identity
        self._agents = agents
        hub.learn_from(self._execution)

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_websocket_route("/api/ws/{user_id}", self.watch)
        return router

    async def _execution(self, execution_id: str) -> agents_pb2.Execution:
        answer = await self._agents.GetExecution(agents_pb2.GetExecutionRequest(id=execution_id))
        return answer.execution

    async def watch(self, websocket: WebSocket, user_id: str) -> None:
        principal = require_scope(websocket.scope, "agents")
        credential = of_websocket(websocket.scope, dict(websocket.scope["headers"])) or ""

        async def still_allowed() -> bool:
            if self._identity.recall(credential) is not None:
                return True
            try:
                await self._identity.authenticate(credential)
            except Unauthenticated:
                return False
            except Unavailable:
                # Nobody can tell now; what was good stays good, as it does for requests.
                return True
            return True

        with self._hub.joined(_room(principal, user_id)) as mailbox:
            await websocket.accept()
            await serve(websocket, mailbox, still_allowed)


def _room(principal: Principal, user_id: str) -> str:
    """Whose events are watched: one's own, by id or by name, or anybody's for an administrator. Raises Forbidden."""
    if user_id in {principal.user_id, principal.username}:
        return principal.user_id
    if principal.is_admin:
        return user_id
    raise Forbidden("Another user's events")
