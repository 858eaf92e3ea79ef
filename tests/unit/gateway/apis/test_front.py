"""What is true of every path: dispatch, envelopes and the index."""

import pytest

from services.gateway.edge.context import KEY, RequestContext
from tests.unit.gateway.apis.world import USER, World


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/v1/chat", "POST"),
        ("PUT", "/v1/chat/completions", "POST"),
        ("PATCH", "/api/agents", "GET, POST"),
        ("POST", "/api/agents/x", "DELETE, GET, PUT"),
        ("TRACE", "/api/v1/tasks", "GET, POST"),
        ("POST", "/openapi.json", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(world: World, method, path, allow):
    """All of them, over all routes of the path."""
    answer = await world.ask(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    "path", ["/nope", "/api/nope", "/v1/nope", "/api/v1/nope", "/api/v1/tasks/", "//", "/api/v1/chat/x"]
)
async def test_an_unknown_path_is_not_found_in_its_dialect(world: World, path):
    """With the error body of the dialect it would belong to."""
    answer = await world.ask("GET", path)
    shape = {"/api/nope": "detail", "/v1/nope": "error"}.get(path, "metadata")
    assert (answer.status, shape in answer.json) == (404, True)


async def test_an_envelope_is_put_around_an_answer(world: World):
    """As the native API's document shows it, and only when it is asked for."""
    envelope = {"X-Response-Envelope": "standard"}
    bare = (await world.ask("GET", "/api/v1/agents")).json
    wrapped = await world.ask("GET", "/api/v1/agents", headers=envelope)
    assert wrapped.json == {
        "success": True,
        "data": bare,
        "error": None,
        "metadata": {"timestamp": "2026-01-01T00:00:00Z", "request_id": "req_1", "processing_time_ms": 0.0},
    }
    assert int(wrapped.headers["content-length"]) == len(wrapped.body)


async def test_an_envelope_is_put_around_chat_too(world: World):
    """The raw routes are no exception."""
    answer = await world.ask("POST", "/api/v1/chat", {"message": "Hi"}, headers={"X-Response-Envelope": "standard"})
    assert answer.json["data"]["response"] == "Hello there"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/chat/stream", {"message": "Hi"}),
        ("GET", "/api/agents", None),
        ("GET", "/v1/models", None),
        ("GET", "/api/v1/tasks/x", None),
    ],
)
async def test_streams_errors_and_other_dialects_have_no_envelope(world: World, method, path, body):
    """Errors have one of their own."""
    plain = await world.ask(method, path, body)
    assert (await world.ask(method, path, body, headers={"X-Response-Envelope": "standard"})).body == plain.body


async def test_the_index_lists_what_exists(world: World):
    """By dialect, without a credential."""
    index = (await world.ask("GET", "/", who="")).json
    assert (index["name"], index["version"]) == ("AgentMesh", "1.2.3")
    assert "POST /v1/chat/completions" in index["endpoints"]["openai"]
    assert index["endpoints"]["v1"][0] == "POST /api/v1/chat"
    assert "DELETE /api/agents/{agent_id}" in index["endpoints"]["aios"]


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/api/v1/chat", "/api/v1/chat"),
        ("GET", "/api/v1/tasks/task_1", "/api/v1/tasks/{task_id}"),
        ("GET", "/nope", ""),
    ],
)
async def test_the_route_is_left_for_the_metrics(world: World, method, path, route):
    """Its template, so that ids do not become labels."""
    context = RequestContext(request_id="r", traceparent="", principal=USER)
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", KEY: context}

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def send(message):
        return None

    with pytest.raises(Exception):  # noqa: B017 - each fails in its own way, after it was routed
        await world.front(scope, receive, send)
    assert context.route == route


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/api/agents", "/v1/models", "/api/v1/tasks"])
async def test_head_is_get_without_its_body(world: World, path: str):
    """With the same status and headers, on every kind of route."""
    head, got = await world.ask("HEAD", path), await world.ask("GET", path)
    assert (head.status, head.headers, head.body) == (200, got.headers, b"")


async def test_head_of_a_path_without_get_is_refused(world: World):
    """As every other wrong method."""
    answer = await world.ask("HEAD", "/api/v1/chat")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
