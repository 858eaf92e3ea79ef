"""The OpenAPI document keeps its word: the published examples fit it, and the gateway answers as it says."""

import asyncio
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.unit.gateway.apis.world import World

WORLD = World()
DOCUMENT: dict[str, Any] = asyncio.run(WORLD.ask("GET", "/openapi.json")).json
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
SCHEMA.app = WORLD.app
OPERATIONS: list[Any] = [result.ok() for result in SCHEMA.get_all_operations() if isinstance(result, Ok)]
KEPT = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]

USER = {
    "id": "uuid",
    "username": "john_doe",
    "email": "john@example.com",
    "is_active": True,
    "is_admin": False,
    "created_at": "2024-01-15T10:30:00Z",
    "last_login": None,
}
AGENT = {
    "id": "agent_uuid",
    "name": "CostOptBot",
    "role": "Cost Optimization & Analysis",
    "description": "Analyzes infrastructure costs and identifies savings",
    "status": "active",
    "created_at": "2024-01-15T09:00:00Z",
    "last_execution": "2024-01-15T11:30:00Z",
    "success_rate": 94.5,
    "total_executions": 127,
    "successful_executions": 120,
}
RUN = {
    "id": "log_uuid",
    "agent_id": "agent_uuid",
    "agent_name": "CostOptBot",
    "status": "success",
    "start_time": "2024-01-15T11:30:00Z",
    "end_time": "2024-01-15T11:32:30Z",
    "duration_ms": 150000,
    "error_message": None,
}
STARTED = {
    "execution_id": "execution_uuid",
    "status": "started",
    "started_at": "2024-01-15T12:00:00Z",
    "agent_count": 2,
    "estimated_duration": 60,
}
MODELS = {
    "models": [{"name": "tinyllama", "size": "637MB", "status": "loaded", "last_used": "2025-08-12T10:00:00Z"}],
    "default_model": "tinyllama",
}
COORDINATOR = {
    "id": "task-coordinator",
    "name": "Task Assignment Coordinator",
    "status": "healthy",
    "port": 8551,
    "capabilities": ["task_distribution", "priority_queue"],
}
QUEUED = {"task_id": "task_123456", "status": "queued", "estimated_completion": "2025-08-12T10:05:00Z"}
PAGE = {"items": [], "total": 100, "page": 1, "per_page": 20, "has_next": True, "has_prev": False}
V1_ERROR = {
    "success": False,
    "data": None,
    "error": {
        "code": "VALIDATION_ERROR",
        "message": "Invalid input parameters",
        "details": {"field": "model", "reason": "Model not found"},
    },
    "metadata": {"timestamp": "2025-08-12T10:00:00Z", "request_id": "req_123456"},
}
AIOS_INVALID = {
    "detail": "Invalid request data",
    "type": "validation_error",
    "errors": [{"field": "username", "message": "Username must be at least 3 characters"}],
}

DEVELOPMENT = {
    "title": "Implement new feature",
    "description": "Detailed task description",
    "priority": "medium",
    "task_type": "feature",
    "estimated_hours": 4.0,
}
DEVELOPMENT_MADE = {
    "id": "TASK-1733760285",
    "title": "Implement new feature",
    "description": "Detailed task description",
    "priority": "medium",
    "type": "feature",
    "estimated_hours": 4.0,
    "status": "pending",
    "created_at": "2025-06-09T15:24:45Z",
}
CWMAI_LIMITED = {"error": "Rate limit exceeded", "detail": "Too many requests", "retry_after": 60}
CUSTOMER = {"text": "Great!", "channel": "chat", "customer_id": "CUST123", "priority": "high"}
CUSTOMER_DONE = {
    "task_id": "task_1234567890",
    "status": "completed",
    "result": {"sentiment": "positive", "confidence": 0.95, "processing_time": "1.5s"},
}
WORKER = {"id": 0, "status": "active", "tasks_processed": 150, "uptime": "2h 30m", "current_load": 0.75}
SUPPORT_ERROR = {"error": {"code": "ERROR_CODE", "message": "Human readable", "details": {"field": "More"}}}

REQUESTS = [
    (
        "post",
        "/api/auth/register",
        {"username": "john_doe", "email": "john@example.com", "password": "secure_password123"},
    ),
    ("post", "/api/agents", {"name": "CustomBot", "role": "Custom Analysis", "description": "Performs analysis"}),
    ("put", "/api/agents/{agent_id}", {"role": "Enhanced", "description": "Updated", "status": "active"}),
    ("post", "/api/execute", {"agent_ids": ["agent1_uuid", "agent2_uuid"], "parallel": True, "timeout_seconds": 300}),
    ("post", "/api/v1/chat", {"message": "Hello", "model": "tinyllama", "temperature": 0.7, "max_tokens": 2048}),
    ("post", "/api/v1/chat", {"message": "What is 2+2?", "model": "tinyllama", "temperature": 0.1}),
    ("post", "/api/v1/chat/stream", {"message": "Tell me a story", "model": "tinyllama"}),
    ("post", "/tasks", DEVELOPMENT),
    ("post", "/task", {"type": "sentiment_analysis", "data": CUSTOMER}),
    ("post", "/task", {"type": "sentiment_analysis", "data": {"text": "Great service!", "channel": "chat"}}),
    ("post", "/workers", {"worker_id": 3, "config": {"max_tasks": 100, "timeout": 30}}),
    ("post", "/api/v1/tasks", {"task_type": "automation", "payload": {"action": "process_data"}, "priority": 1}),
]
ANSWERS = [
    ("post", "/tasks", 200, DEVELOPMENT_MADE),
    ("get", "/tasks", 200, {"tasks": [DEVELOPMENT_MADE], "total": 50, "limit": 10, "offset": 0}),
    ("get", "/tasks", 429, CWMAI_LIMITED),
    ("post", "/task", 202, {"task_id": "t", "status": "accepted", "queue_position": 1, "estimated_process_time": "2s"}),
    ("get", "/task/{task_id}", 200, CUSTOMER_DONE),
    ("get", "/task/{task_id}", 404, SUPPORT_ERROR),
    ("get", "/workers", 200, {"total_workers": 3, "active_workers": 2, "workers": [WORKER]}),
    ("post", "/api/auth/register", 201, USER),
    ("post", "/api/auth/login", 200, {"access_token": "eyJ", "token_type": "bearer", "expires_in": 1800}),
    ("get", "/api/auth/me", 200, USER | {"last_login": "2024-01-15T11:00:00Z"}),
    ("get", "/api/agents", 200, [AGENT]),
    ("post", "/api/agents", 201, AGENT | {"status": "inactive", "last_execution": None, "success_rate": 0.0}),
    ("post", "/api/execute", 200, STARTED),
    ("get", "/api/executions", 200, [RUN]),
    ("post", "/api/v1/chat", 200, {"response": "4", "model": "tinyllama", "tokens_used": 12}),
    ("get", "/api/v1/models", 200, MODELS),
    ("get", "/api/v1/agents", 200, {"agents": [COORDINATOR]}),
    ("post", "/api/v1/tasks", 201, QUEUED),
    ("get", "/api/v1/tasks", 200, PAGE),
    ("post", "/api/v1/tasks", 400, V1_ERROR),
    ("post", "/api/auth/register", 400, AIOS_INVALID),
    ("get", "/api/auth/me", 401, {"detail": "Invalid authentication credentials"}),
    ("post", "/api/agents", 403, {"detail": "Administrative privileges required"}),
    ("get", "/api/agents/{agent_id}", 404, {"detail": "Agent not found"}),
    ("get", "/api/agents", 429, {"detail": "Rate limit exceeded", "retry_after": 60}),
    ("get", "/api/agents", 500, {"detail": "Internal server error", "error_id": "uuid_for_tracking"}),
]


def resolved(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def without_ours(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    """The schema without requiring fields that are ours besides: the published examples do not have them."""
    if "$ref" in schema:
        return without_ours(DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], example)
    if schema.get("type") == "array" and example:
        return schema | {"items": without_ours(schema["items"], example[0])}
    if not isinstance(example, dict):
        return schema
    properties = {
        name: without_ours(schema["properties"][name], value)
        for name, value in example.items()
        if name in schema.get("properties", {})
    }
    return schema | {
        "properties": properties,
        "required": [name for name in schema.get("required", []) if name in example],
    }


@pytest.mark.parametrize(("method", "path", "example"), REQUESTS)
def test_published_requests_fit(method: str, path: str, example: Any):
    """What the APIs' own documents print as requests is accepted as documented."""
    body = DOCUMENT["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
    resolved(body).validate(example)


@pytest.mark.parametrize(("method", "path", "status", "example"), ANSWERS)
def test_published_answers_fit(method: str, path: str, status: int, example: Any):
    """Field by field and type by type; none that they print is missing here."""
    content = DOCUMENT["paths"][path][method]["responses"][str(status)]["content"]["application/json"]
    schema = without_ours(content["schema"], example)
    sample = example[0] if isinstance(example, list) else example
    shown = schema["items"] if isinstance(example, list) else schema
    assert set(sample) <= set(shown["properties"])
    resolved(schema).validate(example)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_operation_is_documented_whole(operation: Any):
    """A tag that is explained, a summary, a name, its errors, and whether it needs a credential."""
    described = DOCUMENT["paths"][operation.path][operation.method]
    assert described["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    assert described["summary"]
    assert described["operationId"]
    assert "security" in described
    for status in ("400", "429", "500", "503"):
        content = described["responses"][status]["content"]
        assert {"application/json", "application/problem+json"} <= set(content)


def test_operations_have_names_of_their_own():
    """Generated clients are made of them."""
    names = [operation.definition.raw["operationId"] for operation in OPERATIONS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("examples", [8, pytest.param(80, marks=pytest.mark.long)])
@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_whatever_is_asked_is_answered_as_documented(operation: Any, mode: Any, examples: int):
    """Fitting and unfitting requests alike: never a 5xx, always a documented status, type and shape."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        # The long run looks elsewhere each time.
        derandomize=examples < 80,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": "Bearer admin"}, checks=KEPT)

    ask()
