"""Every error body, in every dialect."""

from datetime import UTC, datetime

import orjson
import pytest

from chassis.errors import (
    Conflict,
    DeadlineExceeded,
    Exhausted,
    Forbidden,
    Internal,
    Invalid,
    MeshError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from services.gateway.apis.errors import render
from services.gateway.apis.problems import Misshapen, Problem, misshapen
from services.gateway.edge.errors import MethodNotAllowed, OverLimit, PayloadTooLarge

NOW = datetime(2025, 8, 12, 10, tzinfo=UTC)
V1, OPENAI, AIOS = "/api/v1/chat", "/v1/chat/completions", "/api/agents"


def rendered(path: str, error: MeshError, accept: str = "application/json"):
    status, headers, body = render(path, accept, error, "req_1", NOW)
    return status, dict(headers), orjson.loads(body)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid(), 400),
        (Unauthenticated(), 401),
        (Forbidden(), 403),
        (NotFound(), 404),
        (MethodNotAllowed(), 405),
        (Conflict(), 409),
        (PayloadTooLarge(), 413),
        (Conflict(code="IDEMPOTENCY_MISMATCH"), 422),
        (Exhausted(), 429),
        (Internal(), 500),
        (Unavailable(code="PROVIDER_ERROR"), 500),
        (Unavailable(code="CIRCUIT_OPEN"), 503),
        (DeadlineExceeded(), 504),
    ],
)
@pytest.mark.parametrize("path", [V1, OPENAI, AIOS, "/nowhere"])
def test_each_error_has_its_status_in_every_dialect(path, error, status):
    """The statuses are those of the native API's document, and of the idempotency draft."""
    assert rendered(path, error)[0] == status


def test_the_native_envelope_is_as_documented():
    """Field by field as the native API's document shows it."""
    error = Invalid("Invalid input parameters", details={"field": "model", "reason": "Model not found"})
    assert rendered(V1, error)[2] == {
        "success": False,
        "data": None,
        "error": {
            "code": "VALIDATION_ERROR",
            "message": "Invalid input parameters",
            "details": {"field": "model", "reason": "Model not found"},
        },
        "metadata": {"timestamp": "2025-08-12T10:00:00Z", "request_id": "req_1"},
    }


@pytest.mark.parametrize(("path", "status"), [(V1, 422), (AIOS, 400), (OPENAI, 400)])
def test_a_wrong_type_is_422_in_the_native_api_alone(path, status):
    """The other two dialects know 400 for everything that is wrong with a body."""
    assert rendered(path, Misshapen([Problem(field="n", message="Not a number")], of_type=True))[0] == status


def test_a_refused_value_is_400_in_the_native_api():
    """An empty message has the right type and is refused all the same."""
    assert rendered(V1, Misshapen([Problem(field="message", message="Empty")], of_type=False))[0] == 400


def test_all_fields_that_are_wrong_are_named():
    """Nobody has to find them one request at a time."""
    problems = [Problem(field="name", message="Too long"), Problem(field="role", message="Missing")]
    error = Misshapen(problems, of_type=True)
    assert rendered(AIOS, error)[2] == {
        "detail": "Invalid request data",
        "code": "VALIDATION_ERROR",
        "type": "validation_error",
        "errors": [{"field": "name", "message": "Too long"}, {"field": "role", "message": "Missing"}],
    }
    assert rendered(V1, error)[2]["error"]["details"]["fields"][1] == {"field": "role", "reason": "Missing"}


@pytest.mark.parametrize(
    ("location", "field"),
    [
        (("body", "priority", "function-before[_whole(), constrained-int]"), "priority"),
        (("body", "tasks", 0, "priority", "literal['low','high']"), "tasks.0.priority"),
        (("body", "messages", 1, "content", "list[dict[str,any]]", 0), "messages.1.content.0"),
        (("body", "content", "str"), "content"),
        (("body", "kinds", 0, "Offer", "kind"), "kinds.0.kind"),
        (("body",), "body"),
        ((), "body"),
        (("query", "status", 0, "constrained-str"), "status.0"),
        (("header", "If-Match"), "If-Match"),
        (("path", "task_id"), "task_id"),
        (("stop", "constrained-str"), "stop"),
    ],
)
def test_fields_are_named_as_clients_know_them(location, field):
    """Without the place of the parameter, and without the types that were tried."""
    error = misshapen([{"loc": location, "type": "string_type", "msg": "Input should be a valid string"}])
    assert error.problems[0].field == field


def test_a_rule_of_identity_names_its_field_to_aios():
    """As the AI OS API's document shows it."""
    error = Invalid("Username must be at least 3 characters", details={"field": "username"})
    assert rendered(AIOS, error)[2]["errors"] == [
        {"field": "username", "message": "Username must be at least 3 characters"}
    ]


def test_aios_tells_when_to_come_back():
    """In the body as in the header."""
    status, headers, body = rendered(AIOS, Exhausted("Rate limit exceeded", retry_after_seconds=59.2))
    assert (status, headers[b"retry-after"]) == (429, b"60")
    assert body["detail"] == "Rate limit exceeded"
    assert body["retry_after"] == 60


def test_aios_gives_faults_an_id():
    """The request's, by which the log knows it; and nothing of what is private."""
    body = rendered(AIOS, Internal(private="SELECT secret"))[2]
    assert body == {"detail": "Internal error", "error_id": "req_1", "code": "INTERNAL"}


@pytest.mark.parametrize(
    ("error", "kind", "code", "param"),
    [
        (Unauthenticated(), "authentication_error", "invalid_api_key", None),
        (Exhausted(), "rate_limit_error", "rate_limit_exceeded", None),
        (Internal(), "server_error", "internal", None),
        (
            Invalid("No", code="MODEL_NOT_FOUND", details={"field": "model"}),
            "invalid_request_error",
            "model_not_found",
            "model",
        ),
    ],
)
def test_openai_errors_have_type_code_and_param(error, kind, code, param):
    """What the SDKs make their exceptions of."""
    body = rendered(OPENAI, error)[2]["error"]
    assert (body["type"], body["code"], body["param"]) == (kind, code, param)
    assert body["message"] == error.message


def test_an_unknown_model_is_404_for_openai_and_400_for_the_native_api():
    """Each as its own document says."""
    error = Invalid(code="MODEL_NOT_FOUND")
    assert rendered(OPENAI, error)[0] == 404
    assert rendered(V1, error)[0] == 400


@pytest.mark.parametrize("path", [V1, OPENAI, AIOS])
def test_problem_json_is_given_to_those_who_accept_it(path):
    """RFC 9457, in any dialect."""
    error = NotFound("Task not found", code="TASK_NOT_FOUND")
    status, headers, body = rendered(path, error, "application/json, application/problem+json;q=0.9")
    assert (status, headers[b"content-type"]) == (404, b"application/problem+json")
    assert body == {
        "type": "urn:agentmesh:problem:task-not-found",
        "title": "Not Found",
        "status": 404,
        "detail": "Task not found",
        "code": "TASK_NOT_FOUND",
        "request_id": "req_1",
    }


def test_a_problem_has_the_status_of_its_dialect():
    """An unknown model stays 404 on OpenAI's paths."""
    assert rendered(OPENAI, Invalid(code="MODEL_NOT_FOUND"), "application/problem+json")[2]["status"] == 404


@pytest.mark.parametrize(("seconds", "header"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (2.01, b"3"), (None, b"1")])
def test_retry_after_is_whole_never_zero_and_never_early(seconds, header):
    """A retry at exactly that time succeeds."""
    assert rendered(V1, Exhausted(retry_after_seconds=seconds))[1][b"retry-after"] == header


def test_errors_that_waiting_does_not_mend_have_no_retry_after():
    """A client would wait for nothing."""
    assert b"retry-after" not in rendered(V1, Invalid())[1]


def test_challenges_and_allowed_methods_are_in_the_headers():
    """As HTTP wants them with 401 and 405."""
    assert rendered(V1, Unauthenticated())[1][b"www-authenticate"] == b"Bearer"
    assert rendered(V1, MethodNotAllowed(details={"allow": "GET, POST"}))[1][b"allow"] == b"GET, POST"


@pytest.mark.parametrize("path", [V1, OPENAI, AIOS])
@pytest.mark.parametrize(("seconds", "told"), [(0.0001, 1), (2.001, 3), (60.0, 60)])
def test_a_refusal_says_when_to_come_back(path: str, seconds: float, told: int):
    """In whole seconds, rounded up, never 0."""
    status, headers, body = rendered(path, OverLimit("Rate limit exceeded", retry_after_seconds=seconds))
    assert (status, headers[b"retry-after"]) == (429, str(told).encode())
    if path == AIOS:
        assert body["retry_after"] == told


@pytest.mark.parametrize("path", [V1, OPENAI, AIOS])
def test_a_refusal_without_a_time_tells_none(path: str):
    """A cost that never passes, or places that others hold: what nobody knows is not made up."""
    status, headers, body = rendered(path, OverLimit("Too many requests at the same time"))
    assert (status, b"retry-after" in headers, "retry_after" in body) == (429, False, False)
    _, headers, problem = rendered(path, OverLimit("Rate limit exceeded"), "application/problem+json")
    assert b"retry-after" not in headers
    assert problem["type"].endswith("#quota-exceeded")
    assert "retry_after" not in problem
