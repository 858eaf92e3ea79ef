"""``WS /worker/{worker_id}``: a worker from outside. What is said on it stands in `services/gateway/workers`."""

from fastapi import APIRouter, WebSocket

from services.gateway.apis.watching import watch_credential
from services.gateway.edge.context import current
from services.gateway.identity.operations import Identity
from services.gateway.live.keepalive import ask_often
from services.gateway.workers.admission import arrival, require_worker
from services.gateway.workers.links import Links


class WorkerSockets:
    """The route. Refusals are raised before the handshake is answered, so the edge answers it with their status."""

    def __init__(self, links: Links, identity: Identity) -> None:
        self._links = links
        self._identity = identity

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_websocket_route("/worker/{worker_id}", self.serve)
        return router

    async def serve(self, websocket: WebSocket, worker_id: str) -> None:
        require_worker(websocket.scope)
        arrived = arrival(worker_id, current(websocket.scope).client_ip, websocket.query_params)
        self._links.check_room()
        # Its tasks are to run elsewhere 12 seconds after its host has vanished. A worker that speaks the protocol reads
        # while it works; of a bare client nobody knows that.
        if not arrived.at_once:
            ask_often(websocket.scope)
        await websocket.accept()
        await self._links.serve(websocket, arrived, watch_credential(self._identity, websocket.scope))
