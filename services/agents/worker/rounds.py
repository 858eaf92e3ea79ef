"""What is done again and again: repairing executions, and saying that this process serves agents."""

import asyncio
from collections.abc import Awaitable, Callable

from chassis.errors import MeshError
from chassis.logging import get_logger
from services.agents.operations.executions import Engine
from services.agents.ports import Runners

log = get_logger(__name__)

_BEAT_SECONDS = 3.0
_LEASE_SECONDS = 10.0
_LOOK_SECONDS = 0.2


async def repair_for_ever(engine: Engine, *, every_seconds: float, quiet_seconds: float) -> None:
    """Continues what a crash, an outage or a missed event left behind. Several processes may do it at once."""
    while True:
        try:
            failures = await engine.repair(quiet_seconds=quiet_seconds)
        except MeshError as error:
            failures = [error]
        for failure in failures:
            log.warning("An execution waits for its repair", error=str(failure))
        await asyncio.sleep(every_seconds)


async def be_present(runners: Runners, instance: str, port: int, serving: Callable[[], bool]) -> None:
    """Renews the lease of this process for as long as it takes work, and ends it when it is cancelled."""
    try:
        while True:
            if serving():
                await _try(runners.renew(instance, port=port, lease_seconds=_LEASE_SECONDS))
                await asyncio.sleep(_BEAT_SECONDS)
            else:
                await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await _try(runners.remove(instance))


async def _try(renewal: Awaitable[None]) -> None:
    try:
        await renewal
    except MeshError as error:
        # A lease that is not renewed runs out, and that is what a lease is for.
        log.warning("The runner's lease could not be written", error=str(error))
