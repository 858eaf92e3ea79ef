"""The customer-service API's error body, and its few codes."""

from typing import Any

from chassis.errors import Invalid, MeshError, Unauthenticated
from services.gateway.apis.problems import problems_of
from services.gateway.edge.errors import MethodNotAllowed, PayloadTooLarge, UnsupportedMediaType

_BAD_REQUEST = 400
_OF_HTTP = (MethodNotAllowed, PayloadTooLarge, UnsupportedMediaType)


def support_body(error: MeshError, status: int) -> dict[str, Any]:
    """``{"error": {"code", "message", "details"}}``."""
    details: dict[str, Any] = dict(error.details)
    if len(problems := problems_of(error)) > 1:
        details["fields"] = [{"field": problem.field, "reason": problem.message} for problem in problems]
    code = error.code
    if isinstance(error, Unauthenticated):
        code = "UNAUTHORIZED"
    elif status == _BAD_REQUEST and isinstance(error, Invalid) and not isinstance(error, _OF_HTTP):
        code, details = "INVALID_INPUT", {**details, "reason": details.get("reason", error.code)}
    return {"error": {"code": code, "message": error.message, "details": details}}
