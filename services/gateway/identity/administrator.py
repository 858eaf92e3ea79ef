"""The first administrator, as soon as the store is there to hold it."""

import asyncio

from chassis.errors import Unavailable
from chassis.logging import get_logger
from services.gateway.identity.model import Registration
from services.gateway.identity.operations import Identity

log = get_logger(__name__)

_RETRY_EVERY_SECONDS = 1.0


async def exists(identity: Identity, wish: Registration) -> bool:
    """Creates the account unless it is there; False when the store is away."""
    try:
        await identity.ensure_admin(wish)
    except Unavailable as error:
        log.warning("The first administrator has to wait for the database", error=str(error))
        return False
    return True


async def keep_trying(identity: Identity, wish: Registration) -> None:
    """Returns when the account exists. Waits for a store that is away; everything else ends it."""
    while True:
        await asyncio.sleep(_RETRY_EVERY_SECONDS)
        if await exists(identity, wish):
            return
