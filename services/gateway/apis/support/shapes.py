"""Shapes that several resources of the customer-service API share, and how it writes durations."""

from typing import Any

from typing_extensions import TypedDict

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_UNKNOWN = "unknown"


class SupportErrorDetail(TypedDict):
    """What went wrong. `code` is stable; `details` names the field and the reason where there is one."""

    code: str
    message: str
    details: dict[str, Any]


class SupportError(TypedDict):
    """The body of every answer that is no success."""

    error: SupportErrorDetail


def seconds_text(seconds: float) -> str:
    """A measured time as in ``2s``, ``1.5s`` or ``5m``; ``unknown`` for 0: nothing was measured yet."""
    if seconds <= 0:
        return _UNKNOWN
    if seconds < _MINUTE:
        return f"{round(seconds, 3 if seconds < 1 else 1):g}s"
    return f"{round(seconds / _MINUTE)}m" if seconds < _HOUR else f"{seconds / _HOUR:.1f}h"


def uptime_text(seconds: float) -> str:
    """As in ``2h 30m``."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // _DAY, whole % _DAY // _HOUR, whole % _HOUR // _MINUTE
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m"
