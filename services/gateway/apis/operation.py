"""A route on raw ASGI together with what the OpenAPI document says of it."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from services.gateway.edge.asgi import App


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one exact path.

    Attributes:
        tag: the dialect it belongs to.
        name: its operationId, unique in the document.
        request: shape of the JSON body, None where there is none.
        answer: shape of a JSON answer, None where it is not JSON.
        accepted: shape of the answer to what is done later (202), None where all is done at once.
        frame: shape of the server-sent events, None where it never streams.
        idempotent: takes an Idempotency-Key.
        failures: statuses with a body of the success's shape, as a health check that is not ready has.
    """

    path: str
    method: str
    handler: App
    tag: str
    name: str
    summary: str
    request: TypeAdapter[Any] | None = None
    answer: TypeAdapter[Any] | None = None
    accepted: TypeAdapter[Any] | None = None
    frame: TypeAdapter[Any] | None = None
    idempotent: bool = False
    failures: tuple[int, ...] = ()
