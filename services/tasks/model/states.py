"""The state machine as data: states, priorities, and the legal transitions by number.

Whatever is not in the table has no effect anywhere: a `Change` cannot even be made of it.
"""

from enum import Enum, IntEnum, StrEnum


class State(IntEnum):
    """Where a task stands. The first three are live, the others are ends."""

    SCHEDULED = 1
    QUEUED = 2
    RUNNING = 3
    SUCCEEDED = 4
    FAILED = 5
    DEAD = 6
    CANCELLED = 7
    EXPIRED = 8

    @property
    def is_end(self) -> bool:
        """Nothing happens to it any more, except by an operator."""
        return self > State.RUNNING


class Priority(IntEnum):
    """Four classes, a queue each, because native priorities differ in every RabbitMQ line."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def queue_class(self) -> int:
        """The class in the queue's name: 0 is served first."""
        return Priority.CRITICAL - self


class Join(IntEnum):
    """When a task starts that runs after others: when all have succeeded, or one."""

    ALL = 1
    ANY = 2


class EventType(StrEnum):
    """What the feed of a task says."""

    QUEUED = "queued"
    STARTED = "started"
    PROGRESS = "progress"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Transition(StrEnum):
    """Every legal transition, by its number in the design."""

    ACCEPT = "T1"
    RELEASE = "T2"
    CLAIM = "T3"
    COMPLETE = "T4"
    RETRY = "T5"
    FAIL = "T6"
    EXHAUST = "T7"
    GIVE_BACK = "T8"
    CANCEL_WAITING = "T9"
    ASK_TO_STOP = "T10"
    STOP = "T11"
    EXPIRE = "T12"
    REQUEUE = "T13"


# From (None: not there yet), to.
TABLE: dict[Transition, frozenset[tuple[State | None, State]]] = {
    Transition.ACCEPT: frozenset({(None, State.QUEUED), (None, State.SCHEDULED)}),
    Transition.RELEASE: frozenset({(State.SCHEDULED, State.QUEUED)}),
    Transition.CLAIM: frozenset({(State.QUEUED, State.RUNNING)}),
    Transition.COMPLETE: frozenset({(State.RUNNING, State.SUCCEEDED)}),
    Transition.RETRY: frozenset({(State.RUNNING, State.SCHEDULED)}),
    Transition.FAIL: frozenset({(State.RUNNING, State.FAILED)}),
    Transition.EXHAUST: frozenset({(State.RUNNING, State.DEAD)}),
    Transition.GIVE_BACK: frozenset({(State.RUNNING, State.QUEUED)}),
    Transition.CANCEL_WAITING: frozenset({(State.SCHEDULED, State.CANCELLED), (State.QUEUED, State.CANCELLED)}),
    Transition.ASK_TO_STOP: frozenset({(State.RUNNING, State.RUNNING)}),
    Transition.STOP: frozenset({(State.RUNNING, State.CANCELLED)}),
    Transition.EXPIRE: frozenset(
        {
            (State.SCHEDULED, State.EXPIRED),
            (State.QUEUED, State.EXPIRED),
            (State.RUNNING, State.FAILED),
        }
    ),
    Transition.REQUEUE: frozenset(
        {
            (State.FAILED, State.QUEUED),
            (State.DEAD, State.QUEUED),
            (State.CANCELLED, State.QUEUED),
        }
    ),
}


class Purpose(IntEnum):
    """What a timer is for."""

    WAIT = 1
    DEADLINE = 2
    PREREQUISITE = 3


class Due(Enum):
    """What a commit leaves to do at once: publish pointers and news, look at timers, push stops, call webhooks."""

    WORK = "work"
    NEWS = "news"
    TIMERS = "timers"
    STOPS = "stops"
    DELIVERIES = "deliveries"
