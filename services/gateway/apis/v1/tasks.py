"""``/api/v1/tasks``: submit, look, list, cancel, and the events of a task."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from pydantic import BaseModel, Field, StringConstraints

from chassis.clock import Clock
from chassis.errors import NotFound
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, IDEMPOTENCY_PARAMETER, idempotency_key
from services.gateway.apis.ids import is_task_id
from services.gateway.apis.shapes import WHOLE, Body, Moment
from services.gateway.apis.v1.shapes import Page, Paginated, PerPage, paginated
from services.gateway.edge.context import require_scope
from services.gateway.identity.model import Principal
from services.gateway.views import Instant

Status = Literal["scheduled", "queued", "running", "completed", "failed", "dead", "cancelled", "expired"]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]


class Submission(Body):
    """A task to be done. `priority` is a word, or a number from 1 (least urgent) to 10 (most urgent)."""

    task_type: Kind = Field(examples=["automation"])
    payload: dict[str, Any] = Field(default_factory=dict, examples=[{"action": "process_data"}])
    priority: Annotated[int, Field(ge=1, le=10), WHOLE] | Literal["low", "normal", "high", "critical"] = "normal"
    max_attempts: Annotated[int, Field(ge=1, le=100), WHOLE] | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400), WHOLE] | None = None
    run_at: Moment | None = Field(default=None, description="Not before this; with a time zone, else UTC.")
    deadline_at: Moment | None = Field(default=None, description="Given up when it has not succeeded by then.")


class Accepted(BaseModel):
    """It is stored: it will be done."""

    task_id: str
    status: Status
    estimated_completion: Instant


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
    started_at: Instant | None
    completed_at: Instant | None
    error: TaskError | None


class TaskDetail(TaskView):
    """With what it was asked to do."""

    payload: Any


class TaskResult(BaseModel):
    """What came of a task; `result` and `error` are null until it has ended."""

    task_id: str
    status: Status
    result: Any
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


class Tasks:
    """The routes."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/tasks", tags=["v1"], route_class=StrictRoute)
        add = router.add_api_route
        add(
            "",
            self.submit,
            methods=["POST"],
            status_code=201,
            operation_id="v1_submit_task",
            summary="Submit a task",
            openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
        )
        add("", self.list_tasks, operation_id="v1_list_tasks", summary="List tasks, newest first")
        add("/{task_id}", self.get, operation_id="v1_get_task", summary="Look at a task")
        add(
            "/{task_id}/result", self.result, operation_id="v1_get_task_result", summary="Its result, once there is one"
        )
        add("/{task_id}/events", self.events, operation_id="v1_list_task_events", summary="What happened to it")
        add(
            "/{task_id}",
            self.cancel,
            methods=["DELETE"],
            status_code=204,
            operation_id="v1_cancel_task",
            summary="Cancel it; a running task is asked to stop",
        )
        return router

    async def submit(self, request: Request, body: Submission) -> Accepted:
        principal = require_scope(request.scope, "tasks")
        key = idempotency_key(request.headers.get(IDEMPOTENCY_KEY.decode(), ""))
        answer = await self._tasks.Submit(_to_submit(body, principal, key))
        done_at = self._clock.now() + timedelta(seconds=answer.estimated_seconds)
        return Accepted(
            task_id=answer.task.id, status=_status(answer.task.state), estimated_completion=views.iso(done_at)
        )

    async def get(self, request: Request, task_id: str) -> TaskDetail:
        task = await self._task(request, task_id)
        return TaskDetail(**_shown(task), payload=views.json_value(task.payload))

    async def result(self, request: Request, task_id: str) -> TaskResult:
        task = await self._task(request, task_id)
        return TaskResult(
            task_id=task.id,
            status=_status(task.state),
            result=views.json_value(task.result),
            error=_error(task),
            completed_at=views.instant(task, "finished_at"),
        )

    async def list_tasks(
        self,
        request: Request,
        status: Status | None = None,
        task_type: Kind | None = None,
        page: Page = 1,
        per_page: PerPage = 20,
    ) -> Paginated[TaskView]:
        owner = _owner(require_scope(request.scope, "tasks"))
        query = tasks_pb2.ListTasksRequest(
            owner_id=owner,
            states=[views.state_number(status)] if status else [],
            kinds=[task_type] if task_type else [],
            offset=(page - 1) * per_page,
            limit=per_page,
        )
        answer = await self._tasks.ListTasks(query)
        items = [TaskView(**_shown(task)) for task in answer.tasks]
        return paginated(items, total=answer.total, page=page, per_page=per_page)

    async def events(
        self,
        request: Request,
        task_id: str,
        since: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> TaskEvents:
        owner = _owner(require_scope(request.scope, "tasks"))
        query = tasks_pb2.ListEventsRequest(id=_known(task_id), owner_id=owner, since=since, limit=limit)
        answer = await self._tasks.ListEvents(query)
        return TaskEvents(task_id=task_id, events=[_event(event) for event in answer.events])

    async def cancel(self, request: Request, task_id: str) -> None:
        owner = _owner(require_scope(request.scope, "tasks"))
        await self._tasks.CancelTask(tasks_pb2.CancelTaskRequest(id=_known(task_id), owner_id=owner))

    async def _task(self, request: Request, task_id: str) -> tasks_pb2.Task:
        owner = _owner(require_scope(request.scope, "tasks"))
        answer = await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=_known(task_id), owner_id=owner))
        return answer.task


def _owner(principal: Principal) -> str:
    """Whose tasks may be seen: an administrator sees everybody's."""
    return "" if principal.is_admin else principal.user_id


def _known(task_id: str) -> str:
    """An id that could be a task's; anything else is none, without asking."""
    if not is_task_id(task_id):
        raise NotFound("Task not found", code="TASK_NOT_FOUND")
    return task_id


def _to_submit(body: Submission, principal: Principal, key: str) -> tasks_pb2.SubmitRequest:
    return tasks_pb2.SubmitRequest(
        kind=body.task_type,
        payload=orjson.dumps(body.payload),
        owner_id=principal.user_id,
        priority=views.priority_number(body.priority),
        max_attempts=body.max_attempts or 0,
        timeout_seconds=body.timeout_seconds or 0,
        run_at=views.stamp_of(body.run_at),
        deadline_at=views.stamp_of(body.deadline_at),
        idempotency_key=key,
    )


def _status(state: tasks_pb2.State.ValueType) -> Any:
    return views.state_name(state)


def _error(task: tasks_pb2.Task) -> TaskError | None:
    return TaskError(code=task.error.code, message=task.error.message) if task.HasField("error") else None


def _shown(task: tasks_pb2.Task) -> Mapping[str, Any]:
    return {
        "task_id": task.id,
        "task_type": task.kind,
        "status": _status(task.state),
        "priority": views.priority_name(task.priority),
        "progress": task.progress,
        "attempt": task.attempt,
        "max_attempts": task.max_attempts,
        "created_at": views.required_instant(task, "created_at"),
        "started_at": views.instant(task, "started_at"),
        "completed_at": views.instant(task, "finished_at"),
        "error": _error(task),
    }


def _event(event: tasks_pb2.Event) -> TaskEvent:
    return TaskEvent(
        sequence=event.sequence,
        type=event.type,
        attempt=event.attempt,
        at=views.required_instant(event, "at"),
        data=views.json_object(event.data),
    )
