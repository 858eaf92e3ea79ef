"""Messages as the bus brings them."""

from datetime import UTC, datetime

from google.protobuf.message import Message as Proto
from mesh.agents.v1 import events_pb2
from mesh.tasks.v1 import events_pb2 as tasks_events_pb2

from chassis.messaging.message import EVENTS, Message


def told(event: Proto | bytes, subject: str, sequence: int, kind: str = "") -> Message:
    body = event if isinstance(event, bytes) else event.SerializeToString()
    return Message(
        exchange=EVENTS,
        routing_key="agents.x.y",
        type=kind or event.DESCRIPTOR.full_name,  # type: ignore[union-attr]  # bytes come with a kind
        body=body,
        id=f"{subject}-{sequence}",
        time=datetime(2024, 1, 15, tzinfo=UTC),
        source="agents",
        subject=subject,
        sequence=sequence,
    )


def run_finished(sequence: int, owner: str = "u1") -> Message:
    """The nth event of execution e1."""
    return told(events_pb2.RunFinished(execution_id="e1", owner_id=owner, agent_id=f"a{sequence}"), "e1", sequence)


def task_changed(sequence: int, kind: str = "progress", owner: str = "u1", task_id: str = "t1") -> Message:
    """The nth event of a task."""
    event = tasks_events_pb2.TaskChanged(
        task_id=task_id, kind="automation", owner_id=owner, type=kind, sequence=sequence, attempt=1, data=b"{}"
    )
    if kind == "succeeded":
        event.result = b'{"ok":true}'
    return told(tasks_events_pb2.TasksChanged(changes=[event]), task_id, sequence)
