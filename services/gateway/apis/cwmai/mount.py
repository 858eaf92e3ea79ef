"""Every route of the CWMAI API."""

from fastapi import APIRouter

from services.gateway.apis.behind import Behind
from services.gateway.apis.cwmai.tasks import Tasks


def routers(behind: Behind) -> list[APIRouter]:
    """All of them are on FastAPI."""
    return [Tasks(behind.peers.tasks, behind.submissions).router()]
