"""Work that must never end by itself: whatever ends it is logged, and it begins again."""

import asyncio
from collections.abc import Awaitable, Callable

from chassis.logging import get_logger

log = get_logger(__name__)

_PAUSE_SECONDS = 0.5


async def endless(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` for ever; it ends with the cancellation of its own task and with nothing else.

    `work` handles what it expects. This is for the rest: an error nobody thought of, or a library that cancels the
    future somebody waits for, would otherwise end a watch without a word, and with it all that depends on it.
    """
    while True:
        try:
            await work()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.warning("Something cancelled endless work from within; it begins again", work=name)
        except Exception:
            log.exception("Endless work failed and begins again", work=name)
        await asyncio.sleep(_PAUSE_SECONDS)
