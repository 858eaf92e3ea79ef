"""The values: tasks as they are accepted, seen, locked and changed, and what is announced of them."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from services.tasks.model.states import TABLE, EventType, Priority, State, Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The wait after failed attempts: growing by `factor`, bounded, less a random share of it (`jitter`, 0 to 1)."""

    base_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 300.0
    jitter: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of work somebody announced, with the queue group its pointers travel in and its defaults.

    Attributes:
        max_running: how many may run at once, all workers together; 0 for no bound.
    """

    kind: str
    group: str
    max_attempts: int
    timeout_seconds: int
    max_running: int = 0
    retry: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskError:
    """Why an attempt or a task did not succeed: a stable code and a sentence."""

    code: str
    message: str


@dataclass(slots=True, kw_only=True)
class Draft:
    """A submission as it came in: nothing of it was checked. Zero and empty mean "not given"."""

    owner_id: str
    kind: str
    priority: int
    payload: bytes
    labels: bytes
    max_attempts: int
    timeout_seconds: int
    run_at: datetime | None
    deadline_at: datetime | None
    traceparent: str
    idempotency_key: str
    run_after: tuple[str, ...] = ()
    join: int = 0
    unique_key: str = ""
    name: str = ""
    schedule_id: str = ""


@dataclass(slots=True, kw_only=True)
class Submission:
    """A task that was checked and waits to be committed. `payload` and `labels` are JSON; empty labels mean none.

    Attributes:
        bound: of the tasks that wait in its group, to be kept exactly; 0 where it is far away.
        channel: that a customer came through; empty for none.
        fingerprint: of the request, to tell a repeated call from a reused key.
        idempotency_key: empty for none.
        traceparent: of the request that submitted it.
    """

    task_id: str
    owner_id: str
    kind: str
    group: str
    priority: Priority
    payload: bytes
    labels: bytes
    max_attempts: int
    timeout_seconds: int
    run_at: datetime | None
    deadline_at: datetime | None
    traceparent: str
    idempotency_key: str
    fingerprint: bytes
    channel: str = ""
    run_after: tuple[str, ...] = ()
    join_any: bool = False
    unique_key: str = ""
    schedule_id: str = ""
    bound: int = 0

    @property
    def unique_digest(self) -> bytes | None:
        """What no other live task may have; None without a unique key."""
        return digest_unique(self.owner_id, self.kind, self.unique_key) if self.unique_key else None


@dataclass(slots=True, kw_only=True)
class Task:
    """A task as callers see it."""

    task_id: str
    kind: str
    owner_id: str
    priority: Priority
    state: State
    attempt: int
    max_attempts: int
    payload: bytes
    result: bytes
    error: TaskError | None
    progress: float
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    run_at: datetime | None
    traceparent: str
    labels: bytes
    timeout_seconds: int
    partial: bytes = b""
    run_after: tuple[str, ...] = ()
    join_any: bool = False
    unique_key: str = ""
    deadline_at: datetime | None = None
    schedule_id: str = ""


def digest_unique(owner_id: str, kind: str, unique_key: str) -> bytes:
    """Owner, kind and unique key in one short value."""
    parts = (part.encode() for part in (owner_id, kind, unique_key))
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()[:16]


@dataclass(slots=True, kw_only=True)
class Accepted:
    """What became of a submission: a new task, or another: of its idempotency key (`replayed`), or the live one of its
    unique key (`duplicate`). `pointer_seq` is of the row of a pointer that is the caller's to publish; 0: none.
    `held_by` is the session that holds its first attempt already; empty: none.
    """

    task: Task
    replayed: bool
    duplicate: bool = False
    pointer_seq: int = 0
    held_by: str = ""

    @property
    def is_new(self) -> bool:
        """The submission made this task."""
        return not (self.replayed or self.duplicate)


@dataclass(slots=True, kw_only=True)
class Receipt:
    """The answer to a submission. `queue_position` is from 1; `estimated_seconds` is 0 before anything was measured.

    `estimated_at` is when it should have ended; the seconds begin when it may run.
    """

    accepted: Accepted
    queue_position: int
    estimated_seconds: float
    estimated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a task's feed. `data` is a JSON object."""

    sequence: int
    type: str
    attempt: int
    at: datetime
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A live task whose row is locked: the facts that rules decide on.

    Attributes:
        sequence: of its last event.
        max_attempts: grows by one for every attempt that does not count (a lost worker, a hand-back).
        lost: workers that died under it.
        waits: for tasks that it runs after.
        channel: that a customer came through; empty for none.
        now: the database's clock when the row was locked.
    """

    task_id: str
    owner_id: str
    kind: str
    group: str
    priority: Priority
    state: State
    attempt: int
    max_attempts: int
    lost: int
    sequence: int
    session_id: str | None
    cancel_asked: bool
    started_at: datetime | None
    labels: bytes
    traceparent: str
    now: datetime
    created_at: datetime
    run_at: datetime | None = None
    waits: bool = False
    channel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revival:
    """An ended task that is to be live again, with what its live row needs besides."""

    task_id: str
    unique_digest: bytes | None
    channel: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A legal transition of a locked task, ready to be written. Raises ValueError for an illegal one.

    Attributes:
        by: the transition's number in the table.
        event: None when the feed says nothing of it.
        data: of the event, a JSON object.
        delay_seconds: until it is queued again, when `to` is SCHEDULED.
        result: a JSON document, when `to` is SUCCEEDED.
    """

    live: Live
    to: State
    by: Transition
    event: EventType | None
    data: bytes = b"{}"
    lost: int = 0
    max_attempts: int = 0
    delay_seconds: float = 0.0
    result: bytes = b""
    error: TaskError | None = None

    def __post_init__(self) -> None:
        if (self.live.state, self.to) not in TABLE[self.by]:
            raise ValueError(f"{self.by} does not lead from {self.live.state.name} to {self.to.name}")

    @property
    def sequence(self) -> int:
        """Of the event it adds, or of the last one when it adds none."""
        return self.live.sequence + (self.event is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What the bus is told of an event. `asks_for_work` sends a pointer too; an empty `type` sends nothing else."""

    task_id: str
    kind: str
    owner_id: str
    group: str
    priority: Priority
    type: str
    sequence: int
    attempt: int
    at: datetime
    data: bytes = b"{}"
    labels: bytes = b""
    traceparent: str = ""
    asks_for_work: bool = False


def notice_of(change: Change) -> Notice:
    """What is announced of a change."""
    live = change.live
    return Notice(
        task_id=live.task_id,
        kind=live.kind,
        owner_id=live.owner_id,
        group=live.group,
        priority=live.priority,
        type=change.event or "",
        sequence=change.sequence,
        attempt=live.attempt,
        at=live.now,
        data=change.data,
        labels=live.labels,
        traceparent=live.traceparent,
        asks_for_work=change.to is State.QUEUED,
    )
