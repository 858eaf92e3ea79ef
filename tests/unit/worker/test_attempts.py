"""Handlers: timed, in threads, with all kinds of ends."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from mesh.tasks.v1 import tasks_pb2 as pb

from worker.attempts import Attempts, Running
from worker.handler import Assignment, Kind


async def _run(
    handler: Any,
    *,
    payload: bytes = b"{}",
    timeout_seconds: int = 0,
    then: Callable[[Attempts, Running], None] = lambda _attempts, _running: None,
) -> pb.Outcome:
    """The outcome of one attempt with that handler; `then` is called once it runs."""
    ends: list[pb.Outcome | None] = []

    async def report(fraction: float, message: str) -> None:
        del fraction, message

    async with asyncio.TaskGroup() as group:
        attempts = Attempts(group, {"k": Kind(handler=handler)}, 1, lambda _, outcome: ends.append(outcome))
        claimed = pb.Claimed(task_id="t", attempt=2, kind="k", payload=payload, timeout_seconds=timeout_seconds)
        attempts.start(running := Running(key=("t", 2), claimed=claimed, session_id="s", report=report))
        assert attempts.free == 0
        await asyncio.sleep(0)
        then(attempts, running)
        await attempts.wait_idle()
    (outcome,) = ends
    assert outcome is not None
    assert (outcome.task_id, outcome.attempt, attempts.free) == ("t", 2, 1)
    return outcome


async def test_a_plain_function_runs_in_a_thread():
    """Its result is the outcome."""
    outcome = await _run(lambda assignment: {"echo": assignment.payload}, payload=b'{"a": 1}')
    assert outcome.result == b'{"echo":{"a":1}}'


async def _slow(_: Assignment) -> None:
    await asyncio.sleep(3600)


async def test_an_attempt_that_takes_too_long_is_a_retryable_timeout():
    """The limit of the attempt, not the handler's own TimeoutError, is called TIMEOUT."""
    failure = (await _run(_slow, timeout_seconds=1)).failure
    assert (failure.error.code, failure.retryable) == ("TIMEOUT", True)


@pytest.mark.parametrize("first", ["cancel", "expire"])
async def test_whoever_cancels_an_attempt_hears_that_it_was_cancelled(first: str):
    """Also when its time is over in the same moment."""

    def both(attempts: Attempts, running: Running) -> None:
        ends = [lambda: attempts.cancel(("t", 2)), running.expire]
        for end in ends if first == "cancel" else ends[::-1]:
            end()

    assert (await _run(_slow, then=both)).cancelled


async def test_a_handler_may_still_answer_when_its_time_is_over():
    """What it says then is what happened."""

    async def stubborn(_: Assignment) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "done"
        return "never"

    outcome = await _run(stubborn, then=lambda _, running: running.expire())
    assert outcome.result == b'"done"'


async def _breaks_when_stopped() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        raise OSError("a socket")


async def test_what_a_group_raises_when_its_time_is_over_is_the_outcome():
    """Its error is no less the handler's for being one of a group, which asks its task to end once more (3.13)."""

    async def grouped(_: Assignment) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_breaks_when_stopped())

    failure = (await _run(grouped, then=lambda _, running: running.expire())).failure
    assert (failure.error.code, failure.retryable) == ("HANDLER_ERROR", True)


async def test_a_handler_may_still_answer_when_its_group_has_failed():
    """What it says then is what happened, also when its time was over."""

    async def partial(_: Assignment) -> str:
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(_breaks_when_stopped())
        return "partial"

    outcome = await _run(partial, then=lambda _, running: running.expire())
    assert outcome.result == b'"partial"'


async def test_a_group_that_failed_before_hides_no_timeout():
    """A handler that goes on after an error of its group has no more time than any other."""
    attempt: list[Running] = []

    async def broken() -> None:
        raise OSError("a socket")

    async def goes_on(_: Assignment) -> None:
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(broken())
        attempt[0].expire()
        await asyncio.sleep(3600)

    failure = (await _run(goes_on, then=lambda _, running: attempt.append(running))).failure
    assert (failure.error.code, failure.retryable) == ("TIMEOUT", True)


async def test_a_cancellation_that_nobody_asked_for_is_a_failure():
    """A library that cancels what its handler awaits would have it tried again for ever otherwise."""

    async def astray(_: Assignment) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    failure = (await _run(astray)).failure
    assert (failure.error.code, failure.retryable) == ("HANDLER_ERROR", True)


async def test_a_handlers_own_timeout_is_a_failure():
    """A TimeoutError that the handler raises itself is its failure."""

    async def impatient(_: Assignment) -> None:
        raise TimeoutError("a socket")

    failure = (await _run(impatient)).failure
    assert (failure.error.code, failure.error.message) == ("HANDLER_ERROR", "The handler failed")


async def test_a_payload_that_is_no_json_is_rejected():
    """The handler does not even see it."""
    failure = (await _run(lambda _: None, payload=b"{")).failure
    assert (failure.error.code, failure.retryable) == ("INVALID_INPUT", False)


async def test_a_result_that_is_no_json_is_a_permanent_failure():
    """Trying again would not help."""
    failure = (await _run(lambda _: object())).failure
    assert (failure.error.code, failure.retryable) == ("HANDLER_ERROR", False)
