"""Protobuf values → JSON values, as every dialect shows them: times, figures, states. Pure; knows no route."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.tasks.v1 import tasks_pb2
from pydantic import Field

Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2025-08-12T10:00:00Z"])]

_STATE_PREFIX = "STATE_"
_SUCCEEDED, _COMPLETED = "succeeded", "completed"
_PRIORITY_PREFIX = "PRIORITY_"
_UNITS = ("B", "KB", "MB", "GB", "TB")
_UNIT_STEP = 1000


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with a Z; milliseconds only where there are some."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def instant(holder: Any, name: str) -> str | None:
    """The Timestamp field `name` of a message as `iso` writes it, None when it is not set."""
    if not holder.HasField(name):
        return None
    stamp: Timestamp = getattr(holder, name)
    return iso(stamp.ToDatetime(tzinfo=UTC))


def required_instant(holder: Any, name: str) -> str:
    """As `instant`, for a field that its service always sets; one that is unset reads as the epoch."""
    stamp: Timestamp = getattr(holder, name)
    return iso(stamp.ToDatetime(tzinfo=UTC))


def stamp_of(moment: datetime | None) -> Timestamp | None:
    """A moment for a request message."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def percentage(part: int, whole: int) -> float:
    """`part` of `whole` in percent with one decimal, 0.0 of nothing."""
    return round(100 * part / whole, 1) if whole else 0.0


def size_text(size_bytes: int) -> str:
    """A size as people read it, as in ``637MB``; decimal units."""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < _UNIT_STEP or unit == _UNITS[-1]:
            return f"{size:.0f}{unit}" if size >= 10 or size == int(size) else f"{size:.1f}{unit}"  # noqa: PLR2004
        size /= _UNIT_STEP
    return f"{size_bytes}B"


def state_name(state: tasks_pb2.State.ValueType) -> str:
    """As in ``queued``; one that succeeded is ``completed``, as the documented APIs call it."""
    name = tasks_pb2.State.Name(state).removeprefix(_STATE_PREFIX).lower()
    return _COMPLETED if name == _SUCCEEDED else name


def state_number(name: str) -> tasks_pb2.State.ValueType:
    """The inverse of `state_name`. Raises ValueError for a name that is none."""
    return tasks_pb2.State.Value(_STATE_PREFIX + (_SUCCEEDED if name == _COMPLETED else name).upper())


def priority_name(priority: tasks_pb2.Priority.ValueType) -> str:
    """As in ``normal``."""
    return tasks_pb2.Priority.Name(priority).removeprefix(_PRIORITY_PREFIX).lower()


def priority_number(priority: str | int) -> tasks_pb2.Priority.ValueType:
    """The class of a priority given by name, or by a number from 1 (least urgent) to 10 (most urgent)."""
    if isinstance(priority, str):
        return tasks_pb2.Priority.Value(_PRIORITY_PREFIX + priority.upper())
    if priority <= 3:  # noqa: PLR2004 - thirds of 1 to 9, and 10 above them
        return tasks_pb2.PRIORITY_LOW
    if priority <= 6:  # noqa: PLR2004
        return tasks_pb2.PRIORITY_NORMAL
    return tasks_pb2.PRIORITY_HIGH if priority <= 9 else tasks_pb2.PRIORITY_CRITICAL  # noqa: PLR2004


def json_value(document: bytes) -> Any:
    """The value of a JSON document that a service stored, None for an empty one."""
    return orjson.loads(document) if document else None


def json_object(document: bytes) -> dict[str, Any]:
    """As `json_value`, for documents that are objects; empty for anything else."""
    value = json_value(document)
    return dict(value) if isinstance(value, Mapping) else {}
