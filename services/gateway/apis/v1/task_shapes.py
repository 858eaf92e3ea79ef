"""Shapes of ``/api/v1/tasks``, and tasks as they show them."""

from typing import Annotated, Any, Literal

import orjson
from mesh.tasks.v1 import tasks_pb2
from pydantic import BaseModel, Field, StringConstraints

from chassis.errors import NotFound
from services.gateway import views
from services.gateway.apis.ids import is_task_id
from services.gateway.apis.shapes import WHOLE, Body, Moment
from services.gateway.apis.submissions import Submitted
from services.gateway.identity.model import Principal
from services.gateway.views import Instant

Status = Literal["scheduled", "queued", "running", "completed", "failed", "dead", "cancelled", "expired"]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]
Priority = Annotated[int, Field(ge=1, le=10), WHOLE] | Literal["low", "normal", "high", "critical"]
Attempts = Annotated[int, Field(ge=1, le=100), WHOLE]
TimeoutSeconds = Annotated[int, Field(ge=1, le=604_800), WHOLE]
UniqueKey = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Prerequisite = Annotated[str, StringConstraints(pattern=r"^task_[0-9A-HJKMNP-TV-Z]{26}$")]
# In a batch also another of its tasks, by name.
NamedPrerequisite = Annotated[str, StringConstraints(pattern=r"^(task_[0-9A-HJKMNP-TV-Z]{26}|#[A-Za-z0-9_-]{1,50})$")]
MOST_IN_BATCH = 500


class Work(Body):
    """What is to be done. `priority` is a word, or a number from 1 (least urgent) to 10 (most urgent)."""

    task_type: Kind = Field(examples=["automation"])
    payload: dict[str, Any] = Field(default_factory=dict, examples=[{"action": "process_data"}])
    priority: Priority = "normal"
    max_attempts: Attempts | None = None
    timeout_seconds: TimeoutSeconds | None = Field(default=None, description="For one attempt.")
    unique_key: UniqueKey | None = Field(
        default=None, description="While a task of yours of this type with this key is live, it is returned instead."
    )


class Submission(Work):
    """A task to be done."""

    run_at: Moment | None = Field(default=None, description="Not before this; with a time zone, else UTC.")
    deadline_at: Moment | None = Field(default=None, description="Given up when it has not succeeded by then.")
    depends_on: list[Prerequisite] = Field(default=[], max_length=100, description="Tasks of yours to run after.")
    join: Literal["all", "any"] = Field(default="all", description="How many of them must have succeeded.")


class NamedSubmission(Submission):
    """A task of a batch, which may run after others of it."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,50}$")] | None = None
    depends_on: list[NamedPrerequisite] = Field(
        default=[], max_length=100, description="Tasks of yours by id, or of this batch as `#name`."
    )


class Batch(Body):
    """Tasks that are accepted together or not at all."""

    tasks: list[NamedSubmission] = Field(min_length=1, max_length=MOST_IN_BATCH)


class Accepted(BaseModel):
    """It is stored: it will be done. `duplicate`: it is the live task that has the unique key, and none was made."""

    task_id: str
    status: Status
    estimated_completion: Instant
    queue_position: int
    duplicate: bool


class AcceptedBatch(BaseModel):
    """In the order of the request."""

    tasks: list[Accepted]


class Requeue(Body):
    """How many more attempts it may take."""

    attempts: Attempts = 1


class TaskError(BaseModel):
    """Why a task did not succeed."""

    code: str
    message: str


class TaskView(BaseModel):
    """A task as it is now. `progress` goes from 0 to 1."""

    task_id: str
    task_type: str
    status: Status
    priority: Literal["low", "normal", "high", "critical", "unspecified"]
    progress: float
    attempt: int
    max_attempts: int
    created_at: Instant
    run_at: Instant | None
    deadline_at: Instant | None
    started_at: Instant | None
    completed_at: Instant | None
    error: TaskError | None


class TaskDetail(TaskView):
    """With what it was asked to do. `partial_result` is what a running task has said of its result so far."""

    payload: Any
    timeout_seconds: int
    depends_on: list[str]
    join: Literal["all", "any"]
    unique_key: str | None
    schedule_id: str | None
    partial_result: Any


class TaskResult(BaseModel):
    """What came of a task; `result` and `error` are null until it has ended."""

    task_id: str
    status: Status
    result: Any
    partial_result: Any
    error: TaskError | None
    completed_at: Instant | None


class TaskEvent(BaseModel):
    """Something that happened to a task. Sequences have no gaps."""

    sequence: int
    type: str
    attempt: int
    at: Instant
    data: dict[str, Any]


class TaskEvents(BaseModel):
    """The events after a sequence number, in order."""

    task_id: str
    events: list[TaskEvent]


class TaskNews(TaskEvent):
    """A frame of a task's event stream and of the sockets. `result` comes with success, up to 16 KiB of it."""

    task_id: str
    task_type: str
    status: str
    result: Any = None


def owner_of(principal: Principal) -> str:
    """Whose tasks may be seen: an administrator sees everybody's."""
    return "" if principal.is_admin else principal.user_id


def known(task_id: str) -> str:
    """An id that could be a task's; anything else is none, without asking."""
    if not is_task_id(task_id):
        raise NotFound("Task not found", code="TASK_NOT_FOUND")
    return task_id


def work_request(body: Work) -> tasks_pb2.SubmitRequest:
    """The part of a submission that schedules have too."""
    return tasks_pb2.SubmitRequest(
        kind=body.task_type,
        payload=orjson.dumps(body.payload),
        priority=views.priority_number(body.priority),
        max_attempts=body.max_attempts or 0,
        timeout_seconds=body.timeout_seconds or 0,
        unique_key=body.unique_key or "",
    )


def submit_request(body: Submission, principal: Principal, key: str) -> tasks_pb2.SubmitRequest:
    """A whole submission."""
    request = work_request(body)
    request.owner_id = principal.user_id
    request.idempotency_key = key
    for name, moment in (("run_at", body.run_at), ("deadline_at", body.deadline_at)):
        stamp = views.stamp_of(moment)
        if stamp is not None:
            getattr(request, name).CopyFrom(stamp)
    request.run_after.extend(body.depends_on)
    request.join = tasks_pb2.JOIN_ANY if body.join == "any" else tasks_pb2.JOIN_ALL
    if isinstance(body, NamedSubmission):
        request.name = body.name or ""
    return request


def accepted(submitted: Submitted) -> Accepted:
    """The answer to a submission."""
    return Accepted(
        task_id=submitted.task_id,
        status="scheduled" if submitted.scheduled else "queued",
        estimated_completion=views.iso(submitted.estimated_at),
        queue_position=submitted.queue_position,
        duplicate=submitted.duplicate,
    )


def shown(task: tasks_pb2.Task) -> dict[str, Any]:
    """The fields of `TaskView`."""
    return {
        "task_id": task.id,
        "task_type": task.kind,
        "status": views.state_name(task.state),
        "priority": views.priority_name(task.priority),
        "progress": task.progress,
        "attempt": task.attempt,
        "max_attempts": task.max_attempts,
        "created_at": views.required_instant(task, "created_at"),
        "run_at": views.instant(task, "run_at"),
        "deadline_at": views.instant(task, "deadline_at"),
        "started_at": views.instant(task, "started_at"),
        "completed_at": views.instant(task, "finished_at"),
        "error": error_of(task),
    }


def detail(task: tasks_pb2.Task) -> TaskDetail:
    """Everything that is told of one task."""
    return TaskDetail(
        **shown(task),
        payload=views.json_value(task.payload),
        timeout_seconds=task.timeout_seconds,
        depends_on=list(task.run_after),
        join="any" if task.join == tasks_pb2.JOIN_ANY else "all",
        unique_key=task.unique_key or None,
        schedule_id=task.schedule_id or None,
        partial_result=views.json_value(task.partial),
    )


def result_of(task: tasks_pb2.Task) -> TaskResult:
    """What came of it so far."""
    return TaskResult(
        task_id=task.id,
        status=views.state_name(task.state),
        result=views.json_value(task.result),
        partial_result=views.json_value(task.partial),
        error=error_of(task),
        completed_at=views.instant(task, "finished_at"),
    )


def error_of(task: tasks_pb2.Task) -> TaskError | None:
    """Why it did not succeed, None where it did or may."""
    return TaskError(code=task.error.code, message=task.error.message) if task.HasField("error") else None


def event_of(event: tasks_pb2.Event) -> TaskEvent:
    """One event."""
    return TaskEvent(
        sequence=event.sequence,
        type=event.type,
        attempt=event.attempt,
        at=views.required_instant(event, "at"),
        data=views.json_object(event.data),
    )
