"""What sockets are sent, one frame at a time, and the figures of the machine. Pure; knows no source of events."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from services.gateway.views import iso


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame for the sockets of a user.

    Attributes:
        owner: the user's id; empty: everybody's.
        subject: what it is about; frames of one subject are in order.
        sequence: its place among them, from 1 without gaps; 0 where there is no order.
        text: the JSON document.
        key: tells the frames of one subject apart where a history does not know their sequences; the same when the same
            is told again.
        last: nothing follows on this subject.
        passing: stands for a moment only, so that a slow socket may miss it.
    """

    text: str
    key: str = ""
    last: bool = False
    owner: str = ""
    subject: str = ""
    sequence: int = 0
    passing: bool = False


def kind_text(kind: str, data: Mapping[str, Any]) -> str:
    """``{"type", "data"}``, as the AI OS API writes its frames."""
    return orjson.dumps({"type": kind, "data": data}).decode()


def metrics_frame(*, cpu_percent: float, memory_percent: float, health_score: float, now: datetime) -> Frame:
    """How this machine is. `health_score` goes from 0 to 1."""
    data = {
        "cpu_usage": cpu_percent,
        "memory_usage": memory_percent,
        "system_health_score": round(health_score, 2),
        "timestamp": iso(now),
    }
    return Frame(text=kind_text("metrics_update", data), passing=True)
