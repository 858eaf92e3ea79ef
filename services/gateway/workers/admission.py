"""Who may connect as a worker, and what a worker's address says of it."""

import re
from collections.abc import Mapping

from pydantic import ValidationError

from chassis.errors import Forbidden, Invalid
from services.gateway.edge.asgi import Scope
from services.gateway.edge.context import require_scope
from services.gateway.identity.model import Principal, Role
from services.gateway.workers.frames import Offer, Register
from services.gateway.workers.kinds import default_kind
from services.gateway.workers.link import Arrival

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAY = frozenset({Role.WORKER, Role.ADMIN})


def require_worker(scope: Scope) -> Principal:
    """Who asks, if it may bring workers: role worker or admin, with the scope ``worker``. Raises as `require_scope`."""
    principal = require_scope(scope, "worker")
    if principal.role not in _MAY:
        raise Forbidden("Workers connect with the role worker")
    return principal


def arrival(worker_id: str, host: str, query: Mapping[str, str]) -> Arrival:
    """A worker that connects to its address, as in ``/worker/3?kinds=echo,reverse&slots=10&timeout=30``.

    Raises Invalid for what no worker may be called, do, or have.
    """
    if not _NAME.fullmatch(worker_id):
        raise Invalid("A worker's id is 1 to 64 letters, digits and _ . -", details={"field": "worker_id"})
    said = [kind for kind in query.get("kinds", "").split(",") if kind]
    try:
        offers = [
            Offer(kind=kind, timeout_seconds=_number(query, "timeout", 300))
            for kind in said or [default_kind(worker_id)]
        ]
        unsaid = Register(type="register", kinds=list(offers), slots=_number(query, "slots", 1))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise Invalid(f"{first['loc'][-1]}: {first['msg']}", details={"field": str(first["loc"][-1])}) from None
    return Arrival(worker_id=worker_id, host=host, unsaid=unsaid, at_once=bool(said))


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise Invalid(f"{name} is a number", details={"field": name})
    return int(text[:10])
