"""Every error body that leaves the gateway: its dialect's own, or RFC 9457 where the client asks for that."""

from datetime import datetime
from http import HTTPStatus
from typing import Any

import orjson

from chassis.errors import MeshError, Unauthenticated
from services.gateway.apis.aios.errors import aios_body
from services.gateway.apis.cwmai.errors import cwmai_body
from services.gateway.apis.dialects import Dialect, dialect_of
from services.gateway.apis.openai.errors import openai_body, openai_status
from services.gateway.apis.problems import problems_of, status_for
from services.gateway.apis.retries import retry_after
from services.gateway.apis.support.errors import support_body
from services.gateway.apis.v1.errors import v1_body, v1_status
from services.gateway.edge.errors import MethodNotAllowed

PROBLEM = "application/problem+json"
_JSON = "application/json"
# Registered by the RateLimit header fields draft.
_QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"

Headers = list[tuple[bytes, bytes]]


def render(path: str, accept: str, error: MeshError, request_id: str, now: datetime) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the answer to a request that failed.

    Args:
        accept: the request's Accept header, empty for none.
    """
    status, body = _in_dialect(dialect_of(path), error, request_id, now)
    media_type = _JSON
    if PROBLEM in accept.lower():
        body, media_type = _problem(error, status, request_id), PROBLEM
    encoded = orjson.dumps(body)
    return status, _headers(error, media_type, len(encoded)), encoded


def _in_dialect(dialect: Dialect, error: MeshError, request_id: str, now: datetime) -> tuple[int, dict[str, Any]]:
    match dialect:
        case Dialect.OPENAI:
            status = openai_status(error)
            return status, openai_body(error, status)
        case Dialect.AIOS:
            status = status_for(error)
            return status, aios_body(error, status, request_id)
        case Dialect.CWMAI:
            status = status_for(error)
            return status, cwmai_body(error, status, request_id, now)
        case Dialect.SUPPORT:
            status = status_for(error)
            return status, support_body(error, status)
        case Dialect.V1:
            return v1_status(error), v1_body(error, request_id, now)


def _problem(error: MeshError, status: int, request_id: str) -> dict[str, Any]:
    kind = f"urn:agentmesh:problem:{error.code.lower().replace('_', '-')}"
    body: dict[str, Any] = {
        "type": _QUOTA_EXCEEDED if error.code == "RATE_LIMITED" else kind,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "request_id": request_id,
    }
    if problems := problems_of(error):
        body["errors"] = [{"field": problem.field, "message": problem.message} for problem in problems]
    if (seconds := retry_after(error)) is not None:
        body["retry_after"] = seconds
    return body


def _headers(error: MeshError, media_type: str, length: int) -> Headers:
    headers = [(b"content-type", media_type.encode()), (b"content-length", str(length).encode())]
    if (seconds := retry_after(error)) is not None:
        headers.append((b"retry-after", str(seconds).encode()))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed) and "allow" in error.details:
        headers.append((b"allow", error.details["allow"].encode()))
    return headers
