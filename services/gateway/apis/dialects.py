"""Which path belongs to which dialect, route class of the rate limits, and who may come without a credential.

Pure tables over method and path; knows no handler.
"""

from enum import StrEnum


class Dialect(StrEnum):
    """Whose shapes a path speaks."""

    V1 = "v1"
    OPENAI = "openai"
    AIOS = "aios"


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


def dialect_of(path: str) -> Dialect:
    """The dialect of a path; paths of nobody speak the native one."""
    if path.startswith("/v1/") or path == "/v1":
        return Dialect.OPENAI
    if path.startswith("/api/") and not path.startswith(_V1_PREFIX) and path != "/api/v1":
        return Dialect.AIOS
    return Dialect.V1


def classify(method: str, path: str) -> str:
    """The route class that rate limits are kept by, as in ``v1.chat``; empty where none applies."""
    del method  # No class of this catalogue depends on it yet; the edge's contract has it.
    if path in _UNLIMITED:
        return ""
    match dialect_of(path):
        case Dialect.OPENAI:
            return "openai.default"
        case Dialect.AIOS:
            return "aios.default"
        case Dialect.V1:
            resource = path[len(_V1_PREFIX) :].split("/", 1)[0] if path.startswith(_V1_PREFIX) else ""
            return _V1_CLASSES.get(resource, "v1.default")


def is_public(method: str, path: str) -> bool:
    """Whether the path may be asked for without a credential."""
    return path in _UNLIMITED or (method == "POST" and path in _PUBLIC_POSTS)
