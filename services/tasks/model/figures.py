"""Measured figures: depths, rates, and what they say about the wait of a task that comes now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.tasks.model.states import Priority
from services.tasks.model.work import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """One queue: tasks that wait in it, tasks out of it that run, and tasks that will come into it."""

    group: str
    priority: Priority
    queued: int
    running: int
    scheduled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What ended in a group: all, those that did not succeed, and the seconds their last attempts ran."""

    group: str
    ended: int
    failed: int
    busy_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTally:
    """What ended that came through a channel, with the seconds from acceptance to the end."""

    channel: str
    ended: int
    failed: int
    response_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies:
    """What one process saw end: by group, by channel, and by session how many and for how many seconds they ran."""

    groups: Sequence[Tally] = ()
    channels: Sequence[ChannelTally] = ()
    sessions: Mapping[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel that customers come through. `response_seconds` is 0 before anything ended."""

    channel: str
    waiting: int
    running: int
    response_seconds: float
    ended: int
    failed: int
    last_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A group over the last minute, and its totals."""

    group: str
    ended_per_second: float
    mean_run_seconds: float
    ended: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """A group as a whole: what waits and how much may, what runs and how much can, and how fast it goes."""

    waiting: int
    limit: int
    running: int
    slots: int
    rate: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything that operators are shown."""

    depths: Sequence[Depth]
    workers: Sequence[Worker]
    groups: Sequence[GroupFigures]
    known_kinds: Sequence[str]
    unpublished: int


def estimate_seconds(ahead: int, slots: int, rate: Rate | None) -> float:
    """Seconds until a task should have ended that has `ahead` tasks before it; 0 when nothing was measured yet.

    While a queue is longer than its workers are wide, the measured rate is their throughput; a shorter one says more
    about how little was asked, so the wait follows from the run time and the slots.
    """
    if rate is None:
        return 0.0
    if ahead > slots and rate.ended_per_second > 0:
        return ahead / rate.ended_per_second + rate.mean_run_seconds
    return rate.mean_run_seconds * (1 + ahead / max(slots, 1))
