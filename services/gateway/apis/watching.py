"""Whether a socket or stream that stands may go on standing: as long as its credential is good for what it was."""

from collections.abc import Awaitable, Callable

from chassis.errors import Unauthenticated, Unavailable
from services.gateway.edge.asgi import Scope
from services.gateway.edge.context import require_user
from services.gateway.edge.credentials import of_scope
from services.gateway.identity.operations import Identity

StillAllowed = Callable[[], Awaitable[bool]]


def watch_credential(identity: Identity, scope: Scope) -> StillAllowed:
    """What to ask now and then for a request that passed the edge."""
    credential = of_scope(scope, dict(scope["headers"])) or ""
    role = require_user(scope).role

    async def still_allowed() -> bool:
        try:
            principal = identity.recall(credential) or await identity.authenticate(credential)
        except Unauthenticated:
            return False
        except Unavailable:
            # Nobody can tell now; what was good stays good, as it does for requests.
            return True
        # Whoever lost a role opens anew what another role may see, and no worker stays that may not be one.
        return principal.role == role

    return still_allowed
