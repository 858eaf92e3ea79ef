"""The one OpenAPI document: FastAPI's part, the raw routes' part, and what is true of every operation (credentials,
errors, limits), told once here.
"""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from services.gateway.apis.aios.shapes import AiosError
from services.gateway.apis.cwmai.shapes import CwmaiError
from services.gateway.apis.dialects import Dialect, dialect_of, is_public
from services.gateway.apis.idempotency import IDEMPOTENCY_PARAMETER
from services.gateway.apis.openai.shapes import OpenAIError
from services.gateway.apis.operation import Operation
from services.gateway.apis.support.shapes import SupportError
from services.gateway.apis.v1.shapes import V1Error

Schema = dict[str, Any]
Mode = Literal["validation", "serialization"]

_REFERENCE = "#/components/schemas/{model}"
_ERRORS: dict[Dialect, tuple[str, Any]] = {
    Dialect.V1: ("V1Error", V1Error),
    Dialect.OPENAI: ("OpenAIError", OpenAIError),
    Dialect.AIOS: ("AiosError", AiosError),
    Dialect.CWMAI: ("CwmaiError", CwmaiError),
    Dialect.SUPPORT: ("SupportError", SupportError),
}
_ANYWHERE = (400, 401, 403, 413, 415, 429, 500, 503, 504)
_VALIDATION = "HTTPValidationError"
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token, or an API key (amk_…)."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key (amk_…)."},
}
_TAGS = [
    {
        "name": "v1",
        "description": "The native API. Success bodies are bare; `X-Response-Envelope: standard` puts them into "
        '`{"success", "data", "error", "metadata"}`. 400 is malformed JSON or a value that is refused, 422 a field '
        "that is missing or of the wrong type.",
    },
    {"name": "openai", "description": "The OpenAI API: its SDKs work with `base_url` and `api_key` changed."},
    {
        "name": "aios",
        "description": "Accounts, agents, executions and webhooks. `WS /api/ws/{user_id}` tells live what happens: "
        "`execution_started`, `agent_completed`, `execution_completed`, `agent_created`, `metrics_update`.",
    },
    {
        "name": "cwmai",
        "description": "Development tasks, done by agents: the task part of the CWMAI API.",
    },
    {
        "name": "support",
        "description": "Customers' requests as tasks, workers and channels. `WS /tasks/updates` (or `WS /ws/tasks`) "
        "tells live what happens to the caller's tasks; a client that connects again sends "
        '`{"type": "subscribe", "task_id", "since"}` for each task it knows. `WS /worker/{worker_id}` is for workers.',
    },
    {"name": "operations", "description": "Health, for people and for probes."},
]
_DESCRIPTION = (
    "An open microservices mesh for AI agents, behind one gateway. Every answer carries `X-Request-ID` and the "
    "`RateLimit` headers; every error comes in its dialect's shape, or as RFC 9457 `application/problem+json` where "
    "`Accept` asks for that."
)


def describe(app: FastAPI, operations: Iterable[Operation]) -> Schema:
    """The document for FastAPI's routes and the raw ones. Raises ValueError when two shapes share a name."""
    document = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes, tags=_TAGS
    )
    schemas: Schema = document.setdefault("components", {}).setdefault("schemas", {})
    # The raw routes are what most readers come for, so each dialect shows them first.
    paths: Schema = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, schemas)
    for path, item in document["paths"].items():
        paths.setdefault(path, {}).update(item)
    document["paths"] = paths
    for name, shape in _ERRORS.values():
        _add(schemas, TypeAdapter(shape), "serialization", name)
    schemas["Problem"] = _PROBLEM
    document["components"]["securitySchemes"] = _SECURITY
    for path, method, described in _operations(document):
        _complete(path, method, described)
    schemas.pop(_VALIDATION, None)
    schemas.pop("ValidationError", None)
    return document


def _operations(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def _described(operation: Operation, schemas: Schema) -> Schema:
    described: Schema = {"tags": [operation.tag], "summary": operation.summary, "operationId": operation.name}
    if operation.request is not None:
        body = _add(schemas, operation.request, "validation")
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if operation.idempotent:
        described["parameters"] = [IDEMPOTENCY_PARAMETER]
    content: Schema = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": _add(schemas, operation.answer, "serialization")}
    if operation.frame is not None:
        frame = _add(schemas, operation.frame, "serialization")
        data = {"type": "string", "contentMediaType": "application/json", "contentSchema": frame}
        item = {"type": "object", "required": ["data"], "properties": {"data": data}}
        content["text/event-stream"] = {"itemSchema": item}
        # Viewers that do not know `itemSchema` yet show this sentence alone.
        streamed = f". The data of server-sent events: {_names(frame)}"
    else:
        streamed = ""
    described["responses"] = {
        str(status): {"description": HTTPStatus(status).phrase + streamed, "content": content}
        for status in (200, *operation.failures)
    }
    if operation.accepted is not None:
        later = {"application/json": {"schema": _add(schemas, operation.accepted, "serialization")}}
        described["responses"]["202"] = {"description": HTTPStatus.ACCEPTED.phrase, "content": later}
    return described


def _names(frame: Schema) -> str:
    """The components that a frame is one of."""
    return " or ".join(part["$ref"].rsplit("/", 1)[1] for part in frame.get("anyOf", [frame]))


def _add(schemas: Schema, shape: TypeAdapter[Any], mode: Mode, name: str = "") -> Schema:
    """Puts a shape and what it refers to among the components, and returns what refers to it."""
    schema = shape.json_schema(ref_template=_REFERENCE, mode=mode)
    for key, inner in schema.pop("$defs", {}).items():
        _put(schemas, key, inner)
    key = name or schema.get("title", "")
    if not key or "$ref" in schema:
        return schema
    _put(schemas, key, schema)
    return {"$ref": _REFERENCE.format(model=key)}


def _put(schemas: Schema, name: str, schema: Schema) -> None:
    if schemas.setdefault(name, schema) != schema:
        raise ValueError(f"two shapes of the OpenAPI document are called {name}")


def _complete(path: str, method: str, operation: Schema) -> None:
    """What is true of every operation."""
    responses: Schema = operation["responses"]
    if "#/components/schemas/" + _VALIDATION in str(responses.get("422", "")):
        del responses["422"]
    public = is_public(method, path)
    operation["security"] = [] if public else [{"bearer": []}, {"apiKey": []}]
    statuses = set(_ANYWHERE)
    if "{" in path or path.startswith("/v1/"):
        statuses.add(404)
    if "requestBody" in operation or operation.get("parameters"):
        statuses |= {409, 422}
    if method in {"DELETE", "PUT", "POST"}:
        statuses |= {404, 409}
    if any(parameter["name"].lower() == "if-match" for parameter in operation.get("parameters", ())):
        statuses.add(412)
    error = {"$ref": _REFERENCE.format(model=_ERRORS[dialect_of(path)][0])}
    for status in sorted(statuses):
        responses.setdefault(str(status), _failure(status, error))


def _failure(status: int, error: Schema) -> Schema:
    failure: Schema = {
        "description": HTTPStatus(status).phrase,
        "content": {
            "application/json": {"schema": error},
            "application/problem+json": {"schema": {"$ref": _REFERENCE.format(model="Problem")}},
        },
    }
    if status in {429, 503}:
        failure["headers"] = {
            "Retry-After": {
                "description": "Seconds, at least 1. Absent when no time can be told: the request can never pass, or "
                "as many as may are in flight.",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return failure


_PROBLEM: Schema = {
    "title": "Problem",
    "description": "RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "retry_after": {"type": "integer", "minimum": 1},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
