"""Every route of the native API."""

from fastapi import APIRouter
from pydantic import TypeAdapter

from services.gateway.apis.behind import Behind
from services.gateway.apis.operation import Operation
from services.gateway.apis.v1.agents import Agents
from services.gateway.apis.v1.chat import CHAT_BODY, Chat, ChatAnswer, LastFrame, TokenFrame
from services.gateway.apis.v1.chat_batch import BATCH_ANSWER, BATCH_BODY, ChatBatch
from services.gateway.apis.v1.keys import Keys
from services.gateway.apis.v1.models import Models
from services.gateway.apis.v1.rate_limits import RateLimits
from services.gateway.apis.v1.task_events import TaskEventRoutes
from services.gateway.apis.v1.task_schedules import Schedules
from services.gateway.apis.v1.task_shapes import Accepted
from services.gateway.apis.v1.tasks import Tasks
from services.gateway.apis.v1.users import Users


def operations(behind: Behind) -> list[Operation]:
    """Those on raw ASGI."""
    chat = Chat(behind.peers.llm, behind.chat_timeout_seconds)
    batch = ChatBatch(behind.peers.llm, behind.submissions, behind.chat_timeout_seconds)
    return [
        Operation(
            path="/api/v1/chat",
            method="POST",
            handler=chat.answer,
            tag="v1",
            name="v1_chat",
            summary="Ask a model",
            request=CHAT_BODY,
            answer=TypeAdapter(ChatAnswer),
            idempotent=True,
        ),
        Operation(
            path="/api/v1/chat/stream",
            method="POST",
            handler=chat.stream,
            tag="v1",
            name="v1_chat_stream",
            summary="Ask a model and hear it as it speaks",
            request=CHAT_BODY,
            frame=TypeAdapter(TokenFrame | LastFrame),
        ),
        Operation(
            path="/api/v1/chat/batch",
            method="POST",
            handler=batch.answer,
            tag="v1",
            name="v1_chat_batch",
            summary="Ask many things at once; more than 20 become a task",
            request=BATCH_BODY,
            answer=BATCH_ANSWER,
            accepted=TypeAdapter(Accepted),
            idempotent=True,
        ),
    ]


def routers(behind: Behind) -> list[APIRouter]:
    """Those on FastAPI."""
    peers, clock = behind.peers, behind.clock
    return [
        Models(peers.llm, behind.submissions).router(),
        Agents(peers.agents, clock).router(),
        # Before the tasks, whose ids they could be taken for.
        Schedules(peers.tasks).router(),
        Tasks(peers.tasks, behind.submissions).router(),
        TaskEventRoutes(peers.tasks, behind.feeds, behind.identity, clock).router(),
        Users(behind.identity).router(),
        Keys(behind.identity).router(),
        RateLimits(peers.ratelimit, behind.identity).router(),
    ]
