"""OpenAI's error body, statuses and codes, so that its SDKs raise their typed errors."""

from typing import Any

from chassis.errors import MeshError
from services.gateway.apis.problems import problems_of, status_for

_UNKNOWN_MODEL = "MODEL_NOT_FOUND"
_NOT_FOUND = 404
_FIRST_SERVER_ERROR = 500
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Codes that the SDKs' users compare with.
_CODES = {
    "AUTH_FAILED": "invalid_api_key",
    "RATE_LIMITED": "rate_limit_exceeded",
    "TOKENS_BEYOND_LIMIT": "rate_limit_exceeded",
    "PERMISSION_DENIED": "insufficient_permissions",
}


def openai_status(error: MeshError) -> int:
    """As elsewhere, but an unknown model is 404 here."""
    return _NOT_FOUND if error.code == _UNKNOWN_MODEL else status_for(error)


def openai_body(error: MeshError, status: int) -> dict[str, Any]:
    """``{"error": {"message", "type", "param", "code"}}``."""
    problems = problems_of(error)
    default = "server_error" if status >= _FIRST_SERVER_ERROR else "invalid_request_error"
    message = f"{problems[0].field}: {problems[0].message}" if problems else error.message
    return {
        "error": {
            "message": message if problems and problems[0].message not in error.message else error.message,
            "type": _TYPES.get(status, default),
            "param": problems[0].field if problems else None,
            "code": _CODES.get(error.code, error.code.lower()),
        }
    }
