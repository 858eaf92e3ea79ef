"""What a handler is given, what it may raise, and the one table from what it raised to what the tasks service is told.

It knows nothing of sessions, queues or calls.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mesh.tasks.v1 import tasks_pb2

from chassis import errors

HANDLER_ERROR = "HANDLER_ERROR"
INVALID_INPUT = "INVALID_INPUT"
TIMEOUT = "TIMEOUT"

# Another attempt may go better. The rest of the vocabulary says that the request is wrong and will stay wrong.
_RETRYABLE = (errors.Unavailable, errors.DeadlineExceeded, errors.Exhausted, errors.Internal)


class Retry(Exception):
    """The handler could not finish now; another attempt makes sense, if the task has any left.

    Args:
        message: for the owner of the task: a sentence without internals.
        after_seconds: not before this long from now; 0 leaves the pace to the tasks service.
    """

    def __init__(self, message: str, after_seconds: float = 0.0) -> None:
        self.message = message
        self.after_seconds = after_seconds
        super().__init__(message)


class Reject(Exception):
    """The task can never succeed. `code` is stable, as in ``INVALID_INPUT``; `message` is for the owner of the task."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt at one task, as its handler sees it.

    Attributes:
        attempt: the fencing token, from 1. Calls that must take effect once carry the task's id and not this number.
        payload: the parsed JSON document.
        timeout_seconds: for this attempt, counted from its start.
    """

    task_id: str
    attempt: int
    kind: str
    payload: Any
    owner_id: str
    timeout_seconds: int
    report: Callable[[float, str], Awaitable[None]]

    async def progress(self, fraction: float, message: str = "") -> None:
        """Tells how far the work is, 0 to 1. Cheap: what comes within a second of the last report is left out."""
        await self.report(fraction, message)


# A handler returns a JSON document. One that is not a coroutine function runs in a thread, so that its CPU work
# does not hold up the heartbeat; it cannot be interrupted there, only its result is dropped.
Handler = Callable[[Assignment], Awaitable[Any]] | Callable[[Assignment], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one kind of task is done; the two figures hold for tasks that were submitted without their own."""

    handler: Handler
    max_attempts: int = 3
    timeout_seconds: int = 300


def failure_of(error: Exception) -> tasks_pb2.Failure:
    """What the tasks service is told about an error that a handler raised. Only words meant for callers get through."""
    match error:
        case Reject():
            return failure(error.code, error.message, retryable=False)
        case Retry():
            return failure(HANDLER_ERROR, error.message, retryable=True, after_seconds=error.after_seconds)
        case errors.MeshError():
            return failure(
                error.code,
                error.message,
                retryable=isinstance(error, _RETRYABLE),
                after_seconds=error.retry_after_seconds or 0.0,
            )
        case _:
            return failure(HANDLER_ERROR, "The handler failed", retryable=True)


def failure(code: str, message: str, *, retryable: bool, after_seconds: float = 0.0) -> tasks_pb2.Failure:
    """A failure as it travels."""
    return tasks_pb2.Failure(
        error=tasks_pb2.TaskError(code=code, message=message),
        retryable=retryable,
        retry_after_ms=round(after_seconds * 1000),
    )
