"""Measured figures: depths, rates, and what they say about the wait of a task that comes now."""

from dataclasses import dataclass

from services.tasks.model.states import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """One queue: tasks that wait in it and tasks out of it that run."""

    group: str
    priority: Priority
    queued: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What ended in a group: all, those that did not succeed, and the seconds their last attempts ran."""

    group: str
    ended: int
    failed: int
    busy_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A group over the last minute, and its totals."""

    group: str
    ended_per_second: float
    mean_run_seconds: float
    ended: int
    failed: int


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
