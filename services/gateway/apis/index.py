"""``GET /``: what this is and where everything stands."""

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from services.gateway.apis.exchange import send_bytes
from services.gateway.edge.asgi import App, Receive, Scope, Send

_FEATURES = [
    "Chat with models of several providers, whole and streamed",
    "The OpenAI API",
    "Agents and their executions, live over WebSocket",
    "Durable tasks",
    "Distributed rate limits",
]


class Index(TypedDict):
    """What this is. `endpoints` lists, by dialect, what the OpenAPI document describes."""

    name: Literal["AgentMesh"]
    version: str
    description: str
    features: list[str]
    endpoints: dict[str, list[str]]
    documentation: str


def endpoints(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """``METHOD path`` of every operation, by dialect, in the document's order of both."""
    found: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            found[operation["tags"][0]].append(f"{method.upper()} {path}")
    return found


INDEX = TypeAdapter(Index)


def index_handler(document: Mapping[str, Any], version: str) -> App:
    """The handler; its answer is the same every time, so it is built once."""
    answer: Index = {
        "name": "AgentMesh",
        "version": version,
        "description": "An open microservices mesh for AI agents behind one API gateway",
        "features": _FEATURES,
        "endpoints": endpoints(document),
        "documentation": "/docs",
    }
    body = orjson.dumps(answer)

    async def index(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_bytes(send, body, (b"content-type", b"application/json"))

    return index
