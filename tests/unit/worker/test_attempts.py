"""Handlers: timed, in threads, with all kinds of ends."""

import asyncio
from typing import Any

import pytest
from mesh.tasks.v1 import tasks_pb2 as pb

from worker.attempts import Attempts, Running
from worker.handler import Assignment, Kind


async def _run(handler: Any, *, payload: bytes = b"{}", timeout_seconds: int = 0) -> pb.Outcome:
    """The outcome of one attempt with that handler."""
    ends: list[pb.Outcome | None] = []

    async def report(fraction: float, message: str) -> None:
        del fraction, message

    async with asyncio.TaskGroup() as group:
        attempts = Attempts(group, {"k": Kind(handler=handler)}, 1, lambda _, outcome: ends.append(outcome))
        claimed = pb.Claimed(task_id="t", attempt=2, kind="k", payload=payload, timeout_seconds=timeout_seconds)
        attempts.start(Running(claimed=claimed, session_id="s", report=report))
        assert attempts.free == 0
        await attempts.wait_idle()
    (outcome,) = ends
    assert outcome is not None
    assert (outcome.task_id, outcome.attempt, attempts.free) == ("t", 2, 1)
    return outcome


async def test_a_plain_function_runs_in_a_thread():
    """Its result is the outcome."""
    outcome = await _run(lambda assignment: {"echo": assignment.payload}, payload=b'{"a": 1}')
    assert outcome.result == b'{"echo":{"a":1}}'


async def test_an_attempt_that_takes_too_long_is_a_retryable_timeout(monkeypatch: pytest.MonkeyPatch):
    """The limit of the attempt, not the handler's own TimeoutError, is called TIMEOUT."""
    monkeypatch.setattr("worker.attempts.asyncio.timeout", lambda _: asyncio.timeout_at(0))

    async def slow(_: Assignment) -> None:
        await asyncio.sleep(3600)

    failure = (await _run(slow, timeout_seconds=1)).failure
    assert (failure.error.code, failure.retryable) == ("TIMEOUT", True)


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
