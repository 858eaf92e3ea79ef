"""Whether a socket or stream that stands may go on standing: as long as its credential is good."""

from collections.abc import Awaitable, Callable

from chassis.errors import Unauthenticated, Unavailable
from services.gateway.edge.asgi import Scope
from services.gateway.edge.credentials import of_scope
from services.gateway.identity.operations import Identity

StillAllowed = Callable[[], Awaitable[bool]]


def watch_credential(identity: Identity, scope: Scope) -> StillAllowed:
    """What to ask now and then for a request that passed the edge."""
    credential = of_scope(scope, dict(scope["headers"])) or ""

    async def still_allowed() -> bool:
        if identity.recall(credential) is not None:
            return True
        try:
            await identity.authenticate(credential)
        except Unauthenticated:
            return False
        except Unavailable:
            # Nobody can tell now; what was good stays good, as it does for requests.
            return True
        return True

    return still_allowed
