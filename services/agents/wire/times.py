"""Times in messages."""

from datetime import datetime

from google.protobuf import timestamp_pb2


def stamp(value: datetime | None) -> timestamp_pb2.Timestamp | None:
    """A moment for a message; None stays unset."""
    if value is None:
        return None
    moment = timestamp_pb2.Timestamp()
    moment.FromDatetime(value)
    return moment
