"""The AI OS API's error body: `detail`, and what goes with it."""

from typing import Any

from chassis.errors import Invalid, MeshError
from services.gateway.apis.problems import Misshapen, problems_of
from services.gateway.apis.retries import retry_after

_SERVER_ERROR = 500


def aios_body(error: MeshError, status: int, request_id: str) -> dict[str, Any]:
    """``{"detail"}``, with what `AiosError` says goes with it."""
    detail = "Invalid request data" if isinstance(error, Misshapen) else error.message
    body: dict[str, Any] = {"detail": detail}
    if isinstance(error, Invalid):
        body["type"] = "validation_error"
        body["errors"] = [{"field": problem.field, "message": problem.message} for problem in problems_of(error)]
    if (seconds := retry_after(error)) is not None:
        body["retry_after"] = seconds
    if status == _SERVER_ERROR:
        # The request's id is on every line of the log that belongs to it, so it is the one to track by.
        body["error_id"] = request_id
    body["code"] = error.code
    return body
