"""The handlers that run now: started, timed, stopped, and their outcomes handed on.

It knows no session and no broker. An attempt ends in exactly one of three ways: with an outcome of its handler, with
"cancelled" because its owner wanted that, or without a word because it is not this process's any more.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from mesh.tasks.v1 import tasks_pb2

from chassis import telemetry
from chassis.errors import MeshError
from chassis.logging import get_logger
from worker.handler import HANDLER_ERROR, INVALID_INPUT, TIMEOUT, Assignment, Kind, Reject, Retry, failure, failure_of

log = get_logger(__name__)

# A task and the fencing token of one attempt at it.
Key = tuple[str, int]


@dataclass(slots=True, kw_only=True)
class Running:
    """An attempt that runs. `cancelled`: its owner asked for the end; `dropped`: nobody wants its outcome any more;
    `expired`: it took too long. `outcome`: what its handler came to; the task may end as cancelled all the same, for a
    group that raises while it is stopped asks for the end of its task once more (Python 3.13).
    """

    key: Key
    claimed: tasks_pb2.Claimed
    session_id: str
    report: Callable[[float, str], Awaitable[None]]
    cancelled: bool = False
    dropped: bool = False
    expired: bool = False
    outcome: tasks_pb2.Outcome | None = field(default=None, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def expire(self) -> None:
        """Stops it: its time is over."""
        if self.task is not None:
            self.expired = True
            self.task.cancel()


def key_of(pointer: tasks_pb2.Claimed | tasks_pb2.Pointer | tasks_pb2.Outcome) -> Key:
    """The attempt that a message is about."""
    return pointer.task_id, pointer.attempt


class Attempts:
    """At most `slots` running handlers.

    Args:
        group: owns the running handlers; a defect in this module ends it, an error of a handler never does.
        ended: told of every end, with the outcome to report or None; must not block.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        kinds: Mapping[str, Kind],
        slots: int,
        ended: Callable[[Running, tasks_pb2.Outcome | None], None],
    ) -> None:
        self._group = group
        self._kinds = kinds
        self._coroutines = {name for name, kind in kinds.items() if inspect.iscoroutinefunction(kind.handler)}
        self._slots = slots
        self._ended = ended
        self._running: dict[Key, Running] = {}

    @property
    def free(self) -> int:
        """Slots without work."""
        return self._slots - len(self._running)

    @property
    def keys(self) -> set[Key]:
        """The attempts that run now."""
        return set(self._running)

    def start(self, running: Running) -> None:
        """Starts the handler of a claimed attempt."""
        self._running[running.key] = running
        running.task = self._group.create_task(
            self._run(running), name=f"{running.claimed.kind} {running.claimed.task_id}"
        )
        running.task.add_done_callback(lambda _: self._settle(running))

    def cancel(self, key: Key) -> bool:
        """Stops an attempt because its owner asked for it; its outcome will be "cancelled". False: it does not run."""
        running = self._running.get(key)
        if running is None or running.task is None:
            return False
        if not running.cancelled:
            running.cancelled = True
            running.task.cancel()
        return True

    def drop(self, keys: Iterable[Key]) -> None:
        """Stops attempts that are not ours any more; they get no outcome."""
        for key in keys:
            running = self._running.get(key)
            if running is not None and running.task is not None:
                running.dropped = True
                running.task.cancel()

    async def wait_idle(self) -> None:
        """Waits until no handler runs."""
        while tasks := [running.task for running in self._running.values() if running.task is not None]:
            await asyncio.wait(tasks)

    def _settle(self, running: Running) -> None:
        del self._running[running.key]
        outcome = running.outcome
        if outcome is None and running.cancelled:
            outcome = _outcome(running.claimed, cancelled=True)
        self._ended(running, None if running.dropped else outcome)

    async def _run(self, running: Running) -> None:
        claimed = running.claimed
        attributes: dict[str, str | int] = {"mesh.task.id": claimed.task_id, "mesh.task.attempt": claimed.attempt}
        with telemetry.span(f"task {claimed.kind}", telemetry.CONSUMER, claimed.traceparent, attributes) as span:
            # What `asyncio.timeout` does, for an eighth of its cost.
            later = asyncio.get_running_loop().call_later
            limit = later(claimed.timeout_seconds, running.expire) if claimed.timeout_seconds else None
            try:
                running.outcome = _outcome(claimed, result=orjson.dumps(await self._handle(running)))
            except asyncio.CancelledError:
                if (why := _why_cancelled(running)) is None:
                    raise
                said = why
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is the outcome of its attempt
                said = _explain(claimed, error)
            else:
                return
            finally:
                if limit is not None:
                    limit.cancel()
            span.fail(said.error.code)
            running.outcome = _outcome(claimed, failure=said)

    async def _handle(self, running: Running) -> Any:
        claimed = running.claimed
        kind = self._kinds.get(claimed.kind)
        if kind is None:
            raise Reject("UNKNOWN_KIND", f"No handler for {claimed.kind} in this worker")
        assignment = _assignment(running)
        if claimed.kind in self._coroutines:
            return await kind.handler(assignment)
        result = await asyncio.to_thread(kind.handler, assignment)
        # A callable object or a partial of a coroutine function only shows what it is when it is called.
        return await result if inspect.isawaitable(result) else result


def _assignment(running: Running) -> Assignment:
    claimed = running.claimed
    try:
        payload = orjson.loads(claimed.payload) if claimed.payload else None
    except orjson.JSONDecodeError:
        raise Reject(INVALID_INPUT, "The payload is not a JSON document") from None
    return Assignment(
        task_id=claimed.task_id,
        attempt=claimed.attempt,
        kind=claimed.kind,
        payload=payload,
        owner_id=claimed.owner_id,
        timeout_seconds=claimed.timeout_seconds,
        report=running.report,
    )


def _why_cancelled(running: Running) -> tasks_pb2.Failure | None:
    """What the end of a handler as cancelled means; None where its owner, a lost lease or the process's end asked."""
    if running.cancelled or running.dropped:
        return None
    if running.expired:
        return failure(TIMEOUT, f"Not finished within {running.claimed.timeout_seconds} s", retryable=True)
    # A group that fails while it is left, and is caught, leaves a wish behind on Python 3.11 and 3.12: then this end is
    # taken for that of the process, and the attempt is handed back.
    if running.task is not None and running.task.cancelling():
        return None
    log.error(
        "A handler was cancelled, which nobody asked for", kind=running.claimed.kind, task_id=running.claimed.task_id
    )
    return failure(HANDLER_ERROR, "Something that the handler waited for was cancelled", retryable=True)


def _explain(claimed: tasks_pb2.Claimed, error: Exception) -> tasks_pb2.Failure:
    if isinstance(error, orjson.JSONEncodeError):
        log.error("A handler returned what is not JSON", kind=claimed.kind, error=str(error))
        return failure(HANDLER_ERROR, "The handler's result is not a JSON document", retryable=False)
    if not isinstance(error, (Reject, Retry, MeshError)):
        log.error(
            "A handler failed", kind=claimed.kind, task_id=claimed.task_id, attempt=claimed.attempt, exc_info=error
        )
    return failure_of(error)


def _outcome(
    claimed: tasks_pb2.Claimed,
    *,
    result: bytes | None = None,
    failure: tasks_pb2.Failure | None = None,
    cancelled: bool | None = None,
) -> tasks_pb2.Outcome:
    outcome = tasks_pb2.Outcome(task_id=claimed.task_id, attempt=claimed.attempt)
    if result is not None:
        outcome.result = result
    elif failure is not None:
        outcome.failure.CopyFrom(failure)
    else:
        outcome.cancelled = bool(cancelled)
    return outcome
