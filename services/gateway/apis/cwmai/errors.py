"""The CWMAI API's error body: what went wrong in two or three words, and in a sentence."""

from datetime import datetime
from http import HTTPStatus
from typing import Any

from chassis.errors import Exhausted, MeshError
from services.gateway.apis.problems import problems_of
from services.gateway.apis.retries import retry_after
from services.gateway.views import iso

_RATE_LIMITED = "RATE_LIMITED"


def cwmai_body(error: MeshError, status: int, request_id: str, now: datetime) -> dict[str, Any]:
    """``{"error", "detail", "timestamp", "request_id"}``, with what `CwmaiError` says goes with it."""
    name, detail = HTTPStatus(status).phrase, error.message
    if isinstance(error, Exhausted) and error.code == _RATE_LIMITED:
        name, detail = "Rate limit exceeded", "Too many requests"
    elif problems := problems_of(error):
        detail = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
    body: dict[str, Any] = {
        "error": name,
        "detail": detail,
        "code": error.code,
        "timestamp": iso(now),
        "request_id": request_id,
    }
    if (seconds := retry_after(error)) is not None:
        body["retry_after"] = seconds
    return body
