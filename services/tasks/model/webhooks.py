"""Webhooks as values: who wants to be told what, what is told, and how far its telling has come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum

ALL_EVENTS = "*"
PING = "webhook.ping"
TASK_COMPLETED = "task.completed"
EVENTS = (
    TASK_COMPLETED,
    "task.failed",
    "task.cancelled",
    "task.dead",
    "task.expired",
    "execution.started",
    "execution.completed",
    "agent.created",
    "agent.execution.completed",
    "agent.execution.failed",
    PING,
)


class DeliveryState(IntEnum):
    """How far a delivery has come."""

    WAITING = 1
    DELIVERED = 2
    FAILED = 3


class Reason(StrEnum):
    """Why a webhook was disabled by itself."""

    GONE = "gone"
    FAILING = "failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An address that wants to be told of its owner's events.

    Attributes:
        events: types, and beginnings of types as in ``task.*``; ``*`` is all.
        secret: signs; `old_secret` signs beside it until `old_until`.
        disabled_reason: a `Reason`; empty when it is enabled, or its owner disabled it.
    """

    webhook_id: str
    owner_id: str
    url: str
    events: tuple[str, ...]
    description: str
    enabled: bool
    disabled_reason: str
    secret: str = field(repr=False)
    old_secret: str | None = field(repr=False)
    old_until: datetime | None
    created_at: datetime
    last_delivered_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """An idempotency key and a digest of the request that came with it."""

    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HookWish:
    """What a webhook is to be. None leaves it as it is."""

    url: str | None = None
    events: tuple[str, ...] | None = None
    description: str | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One line of a delivery's log. `status` 0: no answer came; `error` is one sentence, empty when it was well."""

    at: datetime
    status: int
    duration_ms: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one webhook. `body` is the payload: what is posted, without the signature in it."""

    delivery_id: str
    webhook_id: str
    event_id: str
    type: str
    state: DeliveryState
    created_at: datetime
    next_at: datetime | None
    delivered_at: datetime | None
    body: bytes
    tries: tuple[Try, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which deliveries of a webhook are wanted, newest first. An empty `before` begins with the newest."""

    webhook_id: str
    owner_id: str
    limit: int
    before: str
    state: DeliveryState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """An event as another service tells it; nothing of it was checked."""

    event_id: str
    owner_id: str
    type: str
    at: datetime
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that was told to this service, to be told on. `payload` is ready to be signed."""

    event_id: str
    owner_id: str
    type: str
    at: datetime
    payload: bytes
    traceparent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the statement that ended a task wrote down of it; the payload is made of it.

    Attributes:
        data: of the payload, but for the result.
        result: a JSON document; None when there is none, or it is too large to be told.
    """

    type: str
    at: datetime
    data: dict[str, object]
    result: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A delivery that was taken for a try, with all that the try needs.

    Attributes:
        number: of the taking; whoever has an older one has lost it.
        secrets: the newest first.
        failures: tries that failed since the schedule began.
        lost: somebody took it before and was not heard of again.
    """

    delivery_id: str
    webhook_id: str
    number: int
    url: str
    secrets: tuple[str, ...] = field(repr=False)
    event_id: str
    type: str
    payload: bytes
    traceparent: str
    failures: int
    tries: tuple[Try, ...]
    lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a try brought. `status` 0: no answer came; `retry_after_seconds`: what the endpoint asks for."""

    status: int
    error: str = ""
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What a try makes of its delivery, and of the webhook.

    Attributes:
        delay_seconds: until the next try, while it waits.
        gone: the endpoint wants no more of it at all.
    """

    state: DeliveryState
    failures: int
    delay_seconds: float
    tries: tuple[Try, ...]
    gone: bool


def is_known(pattern: str) -> bool:
    """Whether it is an event's type, or the beginning of one with a star."""
    return pattern in EVENTS or any(pattern in patterns_of(event) for event in EVENTS)


def patterns_of(event: str) -> Sequence[str]:
    """What a webhook may have written down to be told of this type."""
    parts = event.split(".")
    return [ALL_EVENTS, *(".".join((*parts[:count], "*")) for count in range(1, len(parts))), event]
