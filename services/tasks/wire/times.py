"""Moments on the wire."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000_SECONDS = 253_402_300_800


def to_time(at: datetime) -> Timestamp:
    time = Timestamp()
    set_time(time, at)
    return time


def time_from(at: Timestamp, field: str) -> datetime:
    """Raises Invalid for what is no time."""
    if not (0 <= at.seconds < _YEAR_10000_SECONDS and 0 <= at.nanos < 10**9):
        raise Invalid(f"{field}: Not a time", details={"field": field})
    return _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)


def set_time(field: Timestamp, at: datetime | None) -> None:
    """Leaves the field unset for None."""
    if at is not None:
        past = at - _EPOCH
        # Field by field: to make a message of arguments, and to copy it, costs three times as much.
        field.seconds = past.days * 86_400 + past.seconds
        field.nanos = past.microseconds * 1000
