"""Every route of the AI OS API."""

from fastapi import APIRouter

from services.gateway.apis.aios.agents import Agents
from services.gateway.apis.aios.auth import Auth
from services.gateway.apis.aios.executions import Executions
from services.gateway.apis.aios.sockets import Sockets
from services.gateway.apis.aios.webhooks import Webhooks
from services.gateway.apis.behind import Behind


def routers(behind: Behind) -> list[APIRouter]:
    """All of them are on FastAPI."""
    return [
        Auth(behind.identity).router(),
        Agents(behind.peers.agents).router(),
        Executions(behind.peers.agents).router(),
        Webhooks(behind.peers.webhooks).router(),
        Sockets(behind.feeds.executions, behind.identity).router(),
    ]
