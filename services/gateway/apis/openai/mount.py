"""Every route of the OpenAI API."""

from fastapi import APIRouter
from pydantic import TypeAdapter

from services.gateway.apis.behind import Behind
from services.gateway.apis.openai.chat import ChatCompletions
from services.gateway.apis.openai.models import Models
from services.gateway.apis.openai.shapes import CHAT_REQUEST, ChatCompletion, ChatCompletionChunk
from services.gateway.apis.operation import Operation


def operations(behind: Behind) -> list[Operation]:
    """Those on raw ASGI."""
    return [
        Operation(
            path="/v1/chat/completions",
            method="POST",
            handler=ChatCompletions(behind.peers.llm, behind.clock, behind.chat_timeout_seconds),
            tag="openai",
            name="openai_create_chat_completion",
            summary="Complete a conversation, whole or streamed",
            request=CHAT_REQUEST,
            answer=TypeAdapter(ChatCompletion),
            frame=TypeAdapter(ChatCompletionChunk),
            idempotent=True,
        )
    ]


def routers(behind: Behind) -> list[APIRouter]:
    """Those on FastAPI."""
    return [Models(behind.peers.llm).router()]
