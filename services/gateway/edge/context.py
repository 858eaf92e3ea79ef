"""What the edge knows of a request, carried in its ASGI scope for routes to read."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from mesh.ratelimit.v1 import ratelimit_pb2

from chassis.errors import Forbidden, Unauthenticated
from services.gateway.edge.tokens import Reservation
from services.gateway.identity.model import ACCESS_SCOPE, Principal

Scope = MutableMapping[str, Any]
KEY = "mesh"


@dataclass(slots=True, kw_only=True)
class RequestContext:
    """The state of one request.

    Attributes:
        request_id: the caller's ``X-Request-ID`` when it is sane, else ``req_<…>``; on every answer.
        traceparent: W3C context of the server span.
        route_class: class of the route for rate limits, as in ``v1.chat``; empty where none apply.
        route: template of the route that answers, as in ``/api/v1/tasks/{task_id}``; the dispatcher sets it.
        client_ip: address of the client, behind trusted proxies the one they name.
        principal: who asks; None on public paths without a credential.
        decision: what the ratelimit service said; None where it was not asked or could not be.
        degraded: limits were not, or only locally, enforced for this request.
        subject: under which the request was let in; None where nobody asked or the answer was no.
        asked_at: monotonic time at which that was asked for.
        holds: it has a place under a limit of requests at the same time.
        tokens: what it has reserved of its user's tokens; None where they are not counted.
    """

    request_id: str
    traceparent: str
    route_class: str = ""
    route: str = ""
    client_ip: str = ""
    principal: Principal | None = None
    decision: ratelimit_pb2.Decision | None = None
    degraded: bool = False
    subject: ratelimit_pb2.Subject | None = None
    asked_at: float = 0.0
    holds: bool = False
    tokens: Reservation | None = None


def current(scope: Scope) -> RequestContext:
    """The context of a request that passed the edge, from ``request.scope`` or ``websocket.scope``."""
    context: RequestContext = scope[KEY]
    return context


def require_user(scope: Scope) -> Principal:
    """Who asks. Raises Unauthenticated where nobody said so (possible on public paths alone)."""
    principal = current(scope).principal
    if principal is None:
        raise Unauthenticated("Authentication required: an access token or API key as Authorization: Bearer …")
    return principal


def require_admin(scope: Scope) -> Principal:
    """Who asks, if it is an administrator. Raises Unauthenticated or Forbidden."""
    principal = require_user(scope)
    if not principal.is_admin:
        raise Forbidden("Administrative privileges required")
    return principal


def require_scope(scope: Scope, wanted: str) -> Principal:
    """Who asks, if the credential may be used for `wanted`, as in ``chat``. Raises Unauthenticated or Forbidden."""
    principal = require_user(scope)
    if ACCESS_SCOPE not in principal.scopes and wanted not in principal.scopes:
        raise Forbidden(f"The credential lacks the scope {wanted}")
    return principal
