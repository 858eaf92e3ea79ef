"""The native API's error body: its envelope, with `success` false."""

from datetime import datetime
from typing import Any

from chassis.errors import MeshError
from services.gateway.apis.problems import Misshapen, status_for
from services.gateway.views import iso

_UNPROCESSABLE = 422


def v1_status(error: MeshError) -> int:
    """422 for fields that are missing or of the wrong type; 400 for malformed JSON and for values that are refused."""
    return _UNPROCESSABLE if isinstance(error, Misshapen) and error.of_type else status_for(error)


def v1_body(error: MeshError, request_id: str, now: datetime) -> dict[str, Any]:
    """``{"success", "data", "error": {"code", "message", "details"}, "metadata"}``."""
    details: dict[str, Any] = dict(error.details)
    if isinstance(error, Misshapen) and len(error.problems) > 1:
        details["fields"] = [{"field": problem.field, "reason": problem.message} for problem in error.problems]
    return {
        "success": False,
        "data": None,
        "error": {"code": error.code, "message": error.message, "details": details},
        "metadata": {"timestamp": iso(now), "request_id": request_id},
    }
