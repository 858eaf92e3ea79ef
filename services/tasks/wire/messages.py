"""What the bus is told: pointers for workers, news for everybody."""

from collections.abc import Iterator, Sequence
from typing import Any

from mesh.tasks.v1 import events_pb2, tasks_pb2

from chassis.messaging.message import EVENTS, WORK, Message
from services.tasks.model.work import WaitingPointer
from services.tasks.wire.times import to_time

_SOURCE = "tasks"
_COLUMNS = ("task_ids", "owner_ids", "sequences", "attempts", "ats", "labels", "traceparents")
# Of one message; a single event may be larger.
_MOST_BYTES = 256 * 1024
# About what an event takes besides its documents.
_LEAST_BYTES = 200
_CHANGED = events_pb2.TasksChanged.DESCRIPTOR.full_name
_POINTERS = tasks_pb2.Pointers.DESCRIPTOR.full_name


def pointers_message(bundle: Sequence[WaitingPointer]) -> Message:
    """What waits in one queue, as one message."""
    first, alone = bundle[0], len(bundle) == 1
    pointers = [tasks_pb2.Pointer(task_id=one.task_id, attempt=one.attempt) for one in bundle]
    return Message(
        exchange=WORK,
        routing_key=f"work.{first.group}.p{first.priority.queue_class}",
        type=_POINTERS,
        body=tasks_pb2.Pointers(pointers=pointers).SerializeToString(),
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
    bundle: list[events_pb2.TaskChanged] = []
    size = 0
    for change in _changes(row):
        if bundle and size + len(change.result) + len(change.data) > _MOST_BYTES:
            messages.append(_message(row, bundle))
            bundle, size = [], 0
        bundle.append(change)
        size += len(change.result) + len(change.data) + len(change.labels) + _LEAST_BYTES
    return [*messages, _message(row, bundle)]


def _changes(row: Any) -> Iterator[events_pb2.TaskChanged]:
    count = len(row["task_ids"])
    columns = [row[name] for name in _COLUMNS]
    data, results = row["data"] or [b"{}"] * count, row["results"] or [b""] * count
    # Mostly one for all: the statement's.
    said_at, time = row["ats"][0], to_time(row["ats"][0])
    for task_id, owner_id, sequence, attempt, at, labels, traceparent, said, result in zip(
        *columns, data, results, strict=True
    ):
        if at != said_at:
            said_at, time = at, to_time(at)
        yield events_pb2.TaskChanged(
            task_id=task_id,
            kind=row["kind"],
            owner_id=owner_id,
            type=row["type"],
            sequence=sequence,
            attempt=attempt,
            at=time,
            data=said,
            result=result,
            labels=labels,
            traceparent=traceparent,
        )


def _message(row: Any, bundle: Sequence[events_pb2.TaskChanged]) -> Message:
    first, alone = bundle[0], len(bundle) == 1
    return Message(
        exchange=EVENTS,
        # The kind is in the key so that who waits for one kind of task need not read about all the others.
        routing_key=f"tasks.task.{row['type']}.{row['kind']}",
        type=_CHANGED,
        body=events_pb2.TasksChanged(changes=bundle).SerializeToString(),
        # No two messages begin with the same event.
        id=f"{first.task_id}#{first.sequence}",
        time=row["ats"][0],
        source=_SOURCE,
        subject=first.task_id if alone else "",
        sequence=first.sequence if alone else 0,
        traceparent=first.traceparent if alone else "",
    )
