"""What the bus is told: pointers for workers, news for everybody."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from collections import Counter
from collections.abc import Sequence

from mesh.tasks.v1 import events_pb2, tasks_pb2

from chassis.messaging.message import EVENTS, WORK, Message
from services.tasks.model.states import EventType
from services.tasks.model.task import Notice
from services.tasks.model.work import WaitingPointer
from services.tasks.wire.times import to_time

_SOURCE = "tasks"
# Of one message; a single event may be larger.
_MOST_BYTES = 256 * 1024
_MOST_AT_ONCE = 500
_CHANGED = events_pb2.TasksChanged.DESCRIPTOR.full_name
_POINTER = tasks_pb2.Pointer.DESCRIPTOR.full_name


def pointer_message(pointer: WaitingPointer) -> Message:
    return Message(
        exchange=WORK,
        routing_key=f"work.{pointer.group}.p{pointer.priority.queue_class}",
        type=_POINTER,
        body=tasks_pb2.Pointer(task_id=pointer.task_id, attempt=pointer.attempt).SerializeToString(),
        # With the moment: a pointer that replaces a lost one is another message, and no repetition.
        id=f"{pointer.task_id}@{pointer.attempt}/{int(pointer.at.timestamp() * 1e6)}",
        time=pointer.at,
        source=_SOURCE,
        subject=pointer.task_id,
        traceparent=pointer.traceparent,
    )


def changed_messages(notices: Sequence[Notice]) -> list[Message]:
    """The news of one commit: those that share a routing key in one message, unless it becomes too large.

    At most one notice a task, so that no order between messages matters within a commit.
    """
    bundles: dict[tuple[str, str], list[Notice]] = {}
    messages = []
    sizes: Counter[tuple[str, str]] = Counter()
    for notice in notices:
        way = notice.type, notice.kind
        size = len(notice.data) + len(notice.result) + len(notice.labels)
        if way in bundles and (sizes[way] + size > _MOST_BYTES or len(bundles[way]) >= _MOST_AT_ONCE):
            messages.append(_changed(bundles.pop(way)))
            sizes[way] = 0
        bundles.setdefault(way, []).append(notice)
        sizes[way] += size
    return messages + [_changed(bundle) for bundle in bundles.values()]


def _changed(bundle: Sequence[Notice]) -> Message:
    first, alone = bundle[0], len(bundle) == 1
    return Message(
        exchange=EVENTS,
        # The kind is in the key so that who waits for one kind of task need not read about all the others.
        routing_key=f"tasks.task.{first.type}.{first.kind}",
        type=_CHANGED,
        body=events_pb2.TasksChanged(changes=map(_change, bundle)).SerializeToString(),
        # No two messages begin with the same event.
        id=f"{first.task_id}#{first.sequence}",
        time=first.at,
        source=_SOURCE,
        subject=first.task_id if alone else "",
        sequence=first.sequence if alone else 0,
        traceparent=first.traceparent if alone else "",
    )


def _change(notice: Notice) -> events_pb2.TaskChanged:
    return events_pb2.TaskChanged(
        task_id=notice.task_id,
        kind=notice.kind,
        owner_id=notice.owner_id,
        type=notice.type,
        sequence=notice.sequence,
        attempt=notice.attempt,
        at=to_time(notice.at),
        data=notice.data,
        result=notice.result if notice.type == EventType.SUCCEEDED else b"",
        labels=notice.labels,
        traceparent=notice.traceparent,
    )
