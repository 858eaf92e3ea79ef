"""Work that must never end by itself: whatever ends it is logged, and it begins again. And its end, once wanted."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from chassis.logging import get_logger

log = get_logger(__name__)

_PAUSE_SECONDS = 0.5
_ASK_AGAIN_SECONDS = 0.5


async def endless(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` for ever; it ends with the cancellation of its own task and with nothing else.

    `work` handles what it expects. This is for the rest: an error nobody thought of, or a library that cancels the
    future somebody waits for, would otherwise end a watch without a word, and with it all that depends on it.
    """
    task = asyncio.current_task()
    while True:
        # Not always none: a TaskGroup of Python 3.11 that fails while it is left leaves one behind.
        asked_before = 0 if task is None else task.cancelling()
        try:
            await work()
        except asyncio.CancelledError:
            if task is None or task.cancelling() > asked_before:
                raise
            log.warning("Something cancelled endless work from within; it begins again", work=name)
        except Exception:
            log.exception("Endless work failed and begins again", work=name)
        await asyncio.sleep(_PAUSE_SECONDS)


@contextmanager
def own_cancellation() -> Iterator[None]:
    """Raises ConnectionAbortedError in place of a cancellation that nobody asked of this task.

    A library that cancels the future somebody waits for, as aiormq does when it gives a connection up, would otherwise
    end the whole task, and a TaskGroup says nothing about that.
    """
    task = asyncio.current_task()
    asked_before = 0 if task is None else task.cancelling()
    try:
        yield
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > asked_before:
            raise
        raise ConnectionAbortedError("What was waited for was cancelled") from error


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancels tasks and returns when all of them have ended.

    Asks again and again: a cancellation that comes just when what a task waits for is there can be lost in a library
    (`asyncio.wait_for` of Python 3.11 loses it), and work in a loop would then go on for ever.
    """
    going_on = {task for task in tasks if not task.done()}
    while going_on:
        for task in going_on:
            task.cancel()
        _, going_on = await asyncio.wait(going_on, timeout=_ASK_AGAIN_SECONDS)
