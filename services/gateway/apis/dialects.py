"""Which path belongs to which dialect, route class of the rate limits, and who may come without a credential.

Pure tables over method and path; knows no handler.
"""

from enum import StrEnum

from services.gateway.apis.llm import OPENAI_ANSWER_TOKENS, V1_ANSWER_TOKENS


class Dialect(StrEnum):
    """Whose shapes a path speaks."""

    V1 = "v1"
    OPENAI = "openai"
    AIOS = "aios"
    CWMAI = "cwmai"
    SUPPORT = "support"


# Answered from memory and asked by probes and browsers: no limit applies to them, so no decision is asked for.
_UNLIMITED = frozenset(
    {"/", "/health", "/api/health", "/livez", "/readyz", "/startupz", "/docs", "/redoc", "/openapi.json"}
    | {"/api/docs", "/api/redoc", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"}
    | {"/redoc/redoc.standalone.js"}
)
# A refresh token is its own credential.
_PUBLIC_POSTS = frozenset({"/api/auth/register", "/api/auth/login", "/api/auth/refresh"})
_V1_CLASSES = {"chat": "v1.chat", "models": "v1.models", "tasks": "v1.tasks", "cache": "v1.cache"}
_V1_PREFIX = "/api/v1/"
# Those that have limits of their own besides their resource's.
_V1_POSTS = {
    "/api/v1/models/pull": "v1.models.pull",
    "/api/v1/tasks": "v1.tasks.submit",
    "/api/v1/tasks/batch": "v1.tasks.submit",
}
_CWMAI_PATHS = frozenset({"/tasks"})
_SUPPORT_PATHS = frozenset({"/task", "/tasks/updates", "/workers", "/channels"})
_SUPPORT_PREFIXES = ("/task/", "/worker/")
_OPENAI_CHATS = frozenset({"/v1/chat/completions", "/v1/completions"})
# Tokens that an answer may have where its request does not say.
_ANSWER_TOKENS = {
    "/v1/chat/completions": OPENAI_ANSWER_TOKENS,
    "/api/v1/chat": V1_ANSWER_TOKENS,
    "/api/v1/chat/stream": V1_ANSWER_TOKENS,
    "/api/v1/chat/batch": V1_ANSWER_TOKENS,
}
# Tasks may be conversations; the paths below them are their requeueing.
_SUBMITTING = ("/api/v1/tasks", "/task")


def dialect_of(path: str) -> Dialect:
    """The dialect of a path; paths of nobody speak the native one."""
    if path.startswith("/v1/") or path == "/v1":
        return Dialect.OPENAI
    if path.startswith("/api/") and not path.startswith(_V1_PREFIX) and path != "/api/v1":
        return Dialect.AIOS
    if path in _SUPPORT_PATHS or path.startswith(_SUPPORT_PREFIXES):
        return Dialect.SUPPORT
    return Dialect.CWMAI if path in _CWMAI_PATHS else Dialect.V1


def classify(method: str, path: str) -> str:
    """The route class that rate limits are kept by, as in ``v1.chat``; empty where none applies."""
    if path in _UNLIMITED:
        return ""
    match dialect_of(path):
        case Dialect.OPENAI:
            return "openai.chat" if path in _OPENAI_CHATS else "openai.default"
        case Dialect.AIOS:
            return "aios.sockets" if method == "WEBSOCKET" else "aios.default"
        case Dialect.SUPPORT:
            return "support.default"
        case Dialect.CWMAI:
            return "cwmai.tasks.create" if method == "POST" else "cwmai.tasks.list"
        case Dialect.V1:
            resource = path[len(_V1_PREFIX) :].split("/", 1)[0] if path.startswith(_V1_PREFIX) else ""
            known = _V1_CLASSES.get(resource, "v1.default")
            return _V1_POSTS.get(path, known) if method == "POST" else known


def answer_tokens(method: str, path: str) -> int | None:
    """How many tokens an answer may have where its request does not say; 0 where the route tells that once it has read
    the body, None where none are used.
    """
    if method != "POST":
        return None
    return 0 if path.startswith(_SUBMITTING) else _ANSWER_TOKENS.get(path)


def is_public(method: str, path: str) -> bool:
    """Whether the path may be asked for without a credential."""
    return path in _UNLIMITED or (method == "POST" and path in _PUBLIC_POSTS)
