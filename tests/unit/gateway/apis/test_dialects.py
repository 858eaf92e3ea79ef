"""Which path belongs to whom, under which limit, and who may come without a credential."""

import pytest

from services.gateway.apis.dialects import answer_tokens, classify, dialect_of, is_public


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", "openai"),
        ("/v1", "openai"),
        ("/v1x", "v1"),
        ("/api/v1/chat", "v1"),
        ("/api/v1", "v1"),
        ("/api/v1x", "aios"),
        ("/api/agents", "aios"),
        ("/api/auth/login", "aios"),
        ("/nowhere", "v1"),
        ("/tasks", "cwmai"),
        ("/tasks/updates", "support"),
        ("/task", "support"),
        ("/task/task_1", "support"),
        ("/worker/3", "support"),
        ("/workers", "support"),
        ("/channels", "support"),
        ("/ws/tasks", "v1"),
        ("/", "v1"),
    ],
)
def test_a_path_has_one_dialect(path, dialect):
    """By prefix; nobody's paths speak the native one."""
    assert dialect_of(path) == dialect


@pytest.mark.parametrize(
    ("path", "route_class"),
    [
        ("/api/v1/chat", "v1.chat"),
        ("/api/v1/chat/stream", "v1.chat"),
        ("/api/v1/models/echo/info", "v1.models"),
        ("/api/v1/tasks", "v1.tasks"),
        ("/tasks", "cwmai.tasks.list"),
        ("/task/task_1", "support.default"),
        ("/tasks/updates", "support.default"),
        ("/worker/3", "support.default"),
        ("/api/v1/tasks/task_1/result", "v1.tasks"),
        ("/api/v1/cache/stats", "v1.cache"),
        ("/api/v1/agents", "v1.default"),
        ("/api/v1/chatter", "v1.default"),
        ("/nowhere", "v1.default"),
        ("/v1/models", "openai.default"),
        ("/api/execute", "aios.default"),
        ("/api/auth/login", "aios.default"),
        ("/health", ""),
        ("/openapi.json", ""),
        ("/", ""),
    ],
)
def test_a_path_has_one_route_class(path, route_class):
    """The classes are those of the rules file; what probes and browsers ask for has none."""
    assert classify("GET", path) == route_class


@pytest.mark.parametrize(
    ("method", "path", "public"),
    [
        ("GET", "/", True),
        ("GET", "/health", True),
        ("GET", "/api/docs", True),
        ("POST", "/api/auth/login", True),
        ("POST", "/api/auth/register", True),
        ("GET", "/api/auth/login", False),
        ("GET", "/api/auth/me", False),
        ("POST", "/api/v1/chat", False),
        ("GET", "/nowhere", False),
        ("WEBSOCKET", "/api/ws/1", False),
    ],
)
def test_only_a_few_paths_are_public(method, path, public):
    """Everything else needs a credential, also what does not exist."""
    assert is_public(method, path) is public


@pytest.mark.parametrize(
    ("method", "path", "route_class"),
    [
        ("POST", "/api/v1/tasks", "v1.tasks.submit"),
        ("POST", "/api/v1/models/pull", "v1.models.pull"),
        ("POST", "/api/v1/chat/stream", "v1.chat"),
        ("POST", "/v1/chat/completions", "openai.chat"),
        ("WEBSOCKET", "/api/ws/1", "aios.sockets"),
        ("GET", "/api/ws/1", "aios.default"),
    ],
)
def test_what_is_held_has_a_class_of_its_own(method: str, path: str, route_class: str):
    """Those that may be many at the same time, and are limited in that."""
    assert classify(method, path) == route_class


def test_chats_use_tokens():
    """In both dialects that ask a model; of what submits tasks the body tells, and nothing else does."""
    chats = ("/v1/chat/completions", "/api/v1/chat", "/api/v1/chat/stream")
    assert all(answer_tokens("POST", path) for path in chats)
    assert not any(answer_tokens("GET", path) for path in chats)
    submitting = ("/api/v1/tasks", "/api/v1/tasks/batch", "/api/v1/tasks/task_1/requeue", "/task")
    assert [answer_tokens("POST", path) for path in submitting] == [0] * 4
    assert answer_tokens("POST", "/api/v1/agents") is None
