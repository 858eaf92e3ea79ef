"""Every route of the customer-service API."""

from fastapi import APIRouter

from services.gateway.apis.behind import Behind
from services.gateway.apis.support.channels import Channels
from services.gateway.apis.support.tasks import Tasks
from services.gateway.apis.support.worker_sockets import WorkerSockets
from services.gateway.apis.support.workers import Workers


def routers(behind: Behind) -> list[APIRouter]:
    """All of them are on FastAPI."""
    tasks = behind.peers.tasks
    return [
        Tasks(tasks, behind.submissions).router(),
        Workers(tasks, behind.clock).router(),
        Channels(tasks, behind.clock).router(),
        WorkerSockets(behind.links, behind.identity).router(),
    ]
