"""The feed of tasks: events of the tasks service, and its record of them. The same frame on every socket and stream."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import orjson
from mesh.tasks.v1 import events_pb2, tasks_pb2, tasks_pb2_grpc

from chassis.messaging.message import Message
from services.gateway import views
from services.gateway.live.frames import Frame
from services.gateway.live.source import Watched

PATTERNS = ("tasks.task.#",)

_TASKS_CHANGED = "mesh.tasks.v1.TasksChanged"
_SUCCEEDED, _PROGRESS = "succeeded", "progress"
ENDS = frozenset({_SUCCEEDED, "failed", "dead", "cancelled", "expired"})
# What a task is after an event, in the words of the documented APIs.
_STATUS: Mapping[str, str] = MappingProxyType(
    {"started": "running", _PROGRESS: "running", "retrying": "scheduled", _SUCCEEDED: "completed"}
)
_PAGE = 1000
_MOST_PAGES = 5
# A larger result is left to be fetched: sockets wait for each other's bytes.
_LARGEST_RESULT_BYTES = 16 * 1024
_NO_RESULT = b""


class Tasks:
    """The source of ``WS /tasks/updates``, ``WS /ws/tasks`` and the event stream of a task."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub") -> None:
        self._tasks = tasks

    def frames_of(self, message: Message, watched: Watched) -> list[Frame]:
        """See `Source`; what nobody watches is read no further than its owner."""
        if message.type != _TASKS_CHANGED:
            return []
        changes = events_pb2.TasksChanged.FromString(message.body).changes
        return [_frame(one, one.kind, one.owner_id, one.result) for one in changes if watched(one.owner_id)]

    async def history(self, subject: str, since: int) -> list[Frame]:
        """See `Source`."""
        answer = await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=subject))
        return [frame async for frame in self.after(answer.task, since)]

    async def has_ended(self, task_id: str) -> bool:
        """Whether nothing happens to a task any more. Raises MeshError."""
        answer = await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=task_id))
        return answer.task.state > tasks_pb2.STATE_RUNNING

    async def after(self, task: tasks_pb2.Task, since: int) -> AsyncIterator[Frame]:
        """The frames of a task after a sequence number, in order."""
        while True:
            query = tasks_pb2.ListEventsRequest(id=task.id, since=since, limit=_PAGE)
            answer = await self._tasks.ListEvents(query)
            for event in answer.events:
                result = await self._result(task) if event.type == _SUCCEEDED else _NO_RESULT
                yield _frame(event, task.kind, task.owner_id, result, task.id)
                since = event.sequence
            if len(answer.events) < _PAGE:
                return

    async def _result(self, task: tasks_pb2.Task) -> bytes:
        if task.state == tasks_pb2.STATE_SUCCEEDED:
            return task.result
        # It ended after it was looked at.
        answer = await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=task.id))
        return answer.task.result

    async def recent(self, owner: str, since: datetime) -> list[str] | None:
        """See `Source`; among the five thousand that were submitted last. None where all of those are of since then."""
        found: list[str] = []
        for page in range(_MOST_PAGES):
            query = tasks_pb2.ListTasksRequest(owner_id=owner, offset=page * _PAGE, limit=_PAGE)
            answer = await self._tasks.ListTasks(query)
            found += [task.id for task in answer.tasks if _is_since(task, since)]
            if len(answer.tasks) < _PAGE:
                return found
        return None if answer.tasks[-1].created_at.ToDatetime(tzinfo=UTC) >= since else found


def _is_since(task: tasks_pb2.Task, since: datetime) -> bool:
    newest = max(getattr(task, name).ToDatetime(tzinfo=UTC) for name in ("created_at", "started_at", "finished_at"))
    return bool(newest >= since)


def _frame(
    event: events_pb2.TaskChanged | tasks_pb2.Event, kind: str, owner: str, result: bytes, task_id: str = ""
) -> Frame:
    subject = task_id or event.task_id  # type: ignore[union-attr]  # an Event comes with its task's id
    document: dict[str, Any] = {
        "type": event.type,
        "task_id": subject,
        "task_type": kind,
        "status": _STATUS.get(event.type, event.type),
        "sequence": event.sequence,
        "attempt": event.attempt,
        "at": views.required_instant(event, "at"),
        "data": views.json_object(event.data),
    }
    if event.type == _SUCCEEDED and len(result) <= _LARGEST_RESULT_BYTES:
        document["result"] = views.json_value(result)
    return Frame(
        text=orjson.dumps(document).decode(),
        owner=owner,
        subject=subject,
        sequence=event.sequence,
        last=event.type in ENDS,
        passing=event.type == _PROGRESS,
    )
