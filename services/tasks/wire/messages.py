"""What the bus is told: pointers for workers, news for everybody."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from mesh.tasks.v1 import events_pb2, tasks_pb2

from chassis.messaging.message import EVENTS, WORK, Message
from services.tasks.model.states import EventType
from services.tasks.model.task import Notice
from services.tasks.model.work import WaitingPointer
from services.tasks.wire.times import to_time

_SOURCE = "tasks"
_CHANGED = events_pb2.TaskChanged.DESCRIPTOR.full_name
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


def changed_message(notice: Notice) -> Message:
    changed = events_pb2.TaskChanged(
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
    )
    return Message(
        exchange=EVENTS,
        # The kind is in the key so that who waits for one kind of task need not read about all the others.
        routing_key=f"tasks.task.{notice.type}.{notice.kind}",
        type=_CHANGED,
        body=changed.SerializeToString(),
        id=f"{notice.task_id}#{notice.sequence}",
        time=notice.at,
        source=_SOURCE,
        subject=notice.task_id,
        sequence=notice.sequence,
        traceparent=notice.traceparent,
    )
