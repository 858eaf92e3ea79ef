"""What the bus is told: pointers for workers, news for everybody."""

from collections.abc import Sequence
from typing import Any

from mesh.tasks.v1 import events_pb2, tasks_pb2

from chassis.messaging.message import EVENTS, WORK, Message
from services.tasks.model.work import WaitingPointer
from services.tasks.wire.times import set_time

_SOURCE = "tasks"
_COLUMNS = ("task_ids", "owner_ids", "sequences", "attempts", "traceparents")
_SELDOM = ("data", "results", "labels")
# Of one message; a single event may be larger.
_MOST_BYTES = 256 * 1024
# About what an event takes besides its documents.
_LEAST_BYTES = 200
_CHANGED = events_pb2.TasksChanged.DESCRIPTOR.full_name
_POINTERS = tasks_pb2.Pointers.DESCRIPTOR.full_name


def pointers_message(bundle: Sequence[WaitingPointer]) -> Message:
    """What waits in one queue, as one message."""
    first, alone = bundle[0], len(bundle) == 1
    pointers = tasks_pb2.Pointers()
    for one in bundle:
        pointer = pointers.pointers.add()
        pointer.task_id = one.task_id
        pointer.attempt = one.attempt
    return Message(
        exchange=WORK,
        routing_key=f"work.{first.group}.p{first.priority.queue_class}",
        type=_POINTERS,
        body=pointers.SerializeToString(),
        # With the moment: a pointer that replaces a lost one is another message, and no repetition.
        id=f"{first.task_id}@{first.attempt}/{int(first.at.timestamp() * 1e6)}",
        time=first.at,
        source=_SOURCE,
        subject=first.task_id if alone else "",
        traceparent=first.traceparent if alone else "",
    )


def news_messages(row: Any) -> list[Message]:
    """What a row of the news tells: one message, unless it became too large."""
    messages: list[Message] = []
    bundle, size = events_pb2.TasksChanged(), 0
    count = len(row["task_ids"])
    columns = [row[name] for name in _COLUMNS]
    seldom = [row[name] or [b""] * count for name in _SELDOM]
    # What they have in common is said once and copied: to make each event of arguments costs twice as much.
    alike = events_pb2.TaskChanged(kind=row["kind"], type=row["type"], data=b"{}")
    ats = row["ats"] if len(row["ats"]) == count else row["ats"] * count
    said_at = ats[0]
    set_time(alike.at, said_at)
    for task_id, owner_id, sequence, attempt, traceparent, data, result, labels, at in zip(
        *columns, *seldom, ats, strict=True
    ):
        if size and size + len(result) + len(data) > _MOST_BYTES:
            messages.append(_message(row, bundle))
            bundle, size = events_pb2.TasksChanged(), 0
        size += len(result) + len(data) + len(labels) + _LEAST_BYTES
        if at != said_at:
            said_at = at
            set_time(alike.at, at)
        change = bundle.changes.add()
        change.CopyFrom(alike)
        change.task_id = task_id
        change.owner_id = owner_id
        change.sequence = sequence
        change.attempt = attempt
        change.traceparent = traceparent
        if data:
            change.data = data
        if result:
            change.result = result
        if labels:
            change.labels = labels
    return [*messages, _message(row, bundle)]


def _message(row: Any, bundle: events_pb2.TasksChanged) -> Message:
    first, alone = bundle.changes[0], len(bundle.changes) == 1
    return Message(
        exchange=EVENTS,
        # The kind is in the key so that who waits for one kind of task need not read about all the others.
        routing_key=f"tasks.task.{row['type']}.{row['kind']}",
        type=_CHANGED,
        body=bundle.SerializeToString(),
        # No two messages begin with the same event.
        id=f"{first.task_id}#{first.sequence}",
        time=row["ats"][0],
        source=_SOURCE,
        subject=first.task_id if alone else "",
        sequence=first.sequence if alone else 0,
        traceparent=first.traceparent if alone else "",
    )
