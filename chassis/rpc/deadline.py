"""The deadline of the request that runs now, so that every call made for it ends no later."""

import time
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)

set_deadline = _deadline.set
reset_deadline = _deadline.reset


def after(seconds: float) -> float:
    """The instant (monotonic seconds) that many seconds from now."""
    return time.monotonic() + seconds


def remaining_seconds() -> float | None:
    """Seconds the current request still has, never below 0; None when it has no deadline."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def bound(timeout_seconds: float | None, default_seconds: float) -> float:
    """How long a call may take: what was asked for or the default, but no longer than the request has."""
    wanted = default_seconds if timeout_seconds is None else timeout_seconds
    remaining = remaining_seconds()
    return wanted if remaining is None else min(wanted, remaining)
