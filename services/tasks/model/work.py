"""The values of the worker's side: sessions, pointers, claims and outcomes.

Those that every task needs are tuples: a frozen dataclass takes twice as long to make.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from services.tasks.model.states import Priority
from services.tasks.model.task import Kind, TaskError

# A worker ends an attempt at its timeout by itself; the service does it this much later if it did not.
TIMEOUT_GRACE_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A worker process that wants a session."""

    session_id: str
    worker_name: str
    host: str
    kinds: tuple[Kind, ...]
    slots: int
    resume_session_id: str = ""
    external: bool = False


class Pointer(NamedTuple):
    """A task at an attempt. In a claim `attempt` is the last one there was; everywhere else the one that is held."""

    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimBatch:
    """What one session asks for in one call."""

    session_id: str
    pointers: tuple[Pointer, ...]


class Claimed(NamedTuple):
    """An attempt that a session holds from now on; `attempt` is its fencing token."""

    task_id: str
    attempt: int
    kind: str
    payload: bytes
    owner_id: str
    timeout_seconds: int
    max_attempts: int
    traceparent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed, whether another makes sense, and the least wait before it."""

    error: TaskError
    retryable: bool
    retry_after_seconds: float = 0.0


class Outcome(NamedTuple):
    """How an attempt ended: a result (JSON), a failure, or neither when the worker stopped because it was asked to."""

    task_id: str
    attempt: int
    result: bytes | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeBatch:
    """What one session reports in one call."""

    session_id: str
    outcomes: tuple[Outcome, ...]


class End(NamedTuple):
    """A task that ended, as far as figures are made of it.

    Attributes:
        channel: that its customer came through; empty for none.
        session_id: that held its last attempt; None where none did.
        busy_seconds: of the last attempt.
        response_seconds: since it was submitted.
    """

    group: str
    channel: str
    session_id: str | None
    failed: bool
    busy_seconds: float
    response_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An attempt that a session holds, and whether it was asked to stop."""

    task_id: str
    attempt: int
    cancel_asked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """An attempt that its owner wants stopped, and the session that holds it."""

    session_id: str
    pointer: Pointer


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How far an attempt is: 0 to 1, the data of its event, what there is of the result (JSON; empty: as before)."""

    progress: float
    data: bytes
    partial: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue to feed: at most so many pointers, beginning with the owner after that one. `lane` as in the table."""

    group: str
    priority: Priority
    most: int
    after_owner: str = ""
    lane: str = ""


class WaitingPointer(NamedTuple):
    """A pointer that is not with the broker yet, under the key of its row."""

    lane: str
    group: str
    priority: Priority
    owner_id: str
    seq: int
    task_id: str
    attempt: int
    traceparent: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """An open session as operators see it. `average_seconds` is of its attempts; 0 before one has ended."""

    session_id: str
    name: str
    host: str
    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    slots: int
    running: int
    finished: int
    opened_at: datetime
    draining: bool
    external: bool
    beat_at: datetime
    average_seconds: float
