"""Work that must never end by itself begins again whatever ended it, and ends when it is told to."""

import asyncio
from collections.abc import Callable

import pytest

from chassis import endless as module
from chassis.endless import end, endless, own_cancellation


async def _return() -> None:
    return


async def _fail() -> None:
    raise ZeroDivisionError


async def _await_what_is_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("end", [_return, _fail, _await_what_is_cancelled])
async def test_it_begins_again(end: Callable[[], object], monkeypatch: pytest.MonkeyPatch):
    """After a return, after an error, and after a future that somebody else cancelled."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0)
    begun = 0
    third = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            third.set()
        await end()  # type: ignore[misc]  # a coroutine function

    running = asyncio.ensure_future(endless("work", work))
    async with asyncio.timeout(30):
        await third.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_it_ends_when_it_is_cancelled():
    """Also in the middle of its work."""
    running = asyncio.ensure_future(endless("work", asyncio.Event().wait))  # type: ignore[arg-type]  # its answer is nothing here
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_loses_a_cancellation_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    """As a library may lose it; all are waited for, those that have ended already included."""
    monkeypatch.setattr(module, "_ASK_AGAIN_SECONDS", 0.001)
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while lost < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
        await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(deaf()), asyncio.ensure_future(_return())]
    await asyncio.sleep(0)
    await end(tasks)
    assert [task.done() for task in tasks] == [True, True]
    assert lost == 3


async def test_a_cancellation_that_nobody_asked_for_is_an_error_of_the_connection():
    """And is not taken for the end of the task that waits."""
    with pytest.raises(ConnectionAbortedError), own_cancellation():
        await _await_what_is_cancelled()


async def test_a_cancellation_that_was_asked_for_stays_one():
    """Also in a task that went on after an earlier one."""
    went_on = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(ConnectionAbortedError), own_cancellation():
                await _await_what_is_cancelled()
        went_on.set()
        with own_cancellation():
            await asyncio.Event().wait()

    running = asyncio.ensure_future(work())
    for _ in range(2):
        await asyncio.sleep(0)
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert went_on.is_set()
