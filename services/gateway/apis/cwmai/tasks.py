"""``/tasks``: development tasks, done by agents. The list shows every task of the caller, whichever API made it."""

from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query, Request
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from pydantic import BaseModel, Field, StringConstraints

from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, IDEMPOTENCY_PARAMETER, idempotency_key
from services.gateway.apis.shapes import Body
from services.gateway.apis.submissions import Submissions
from services.gateway.edge.context import require_scope
from services.gateway.views import Instant

TaskType = Literal["feature", "bug", "docs", "test"]
Priority = Literal["low", "medium", "high"]
Title = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
# It goes with the task wherever the task is listed.
Description = Annotated[str, StringConstraints(max_length=3000)]

_NUMBERS = {"low": tasks_pb2.PRIORITY_LOW, "medium": tasks_pb2.PRIORITY_NORMAL, "high": tasks_pb2.PRIORITY_HIGH}
_WORDS = {tasks_pb2.PRIORITY_LOW: "low", tasks_pb2.PRIORITY_HIGH: "high", tasks_pb2.PRIORITY_CRITICAL: "high"}
_STATUS = {"scheduled": "pending", "queued": "pending", "running": "in_progress", "dead": "failed"}


class NewTask(Body):
    """A development task."""

    title: Title = Field(examples=["Implement new feature"])
    description: Description = Field(default="", examples=["Detailed task description"])
    priority: Priority = "medium"
    task_type: TaskType = "feature"
    estimated_hours: Annotated[float, Field(ge=0, le=100_000, strict=False)] | None = Field(
        default=None, examples=[4.0]
    )


class TaskView(BaseModel):
    """A task. `type` is its kind, `title` the kind where it was given none."""

    id: str
    title: str
    description: str
    priority: Priority
    type: str
    estimated_hours: float | None
    status: Literal["pending", "in_progress", "completed", "failed", "cancelled", "expired"]
    created_at: Instant


class TaskList(BaseModel):
    """A part of the caller's tasks, newest first."""

    tasks: list[TaskView]
    total: int
    limit: int
    offset: int


class Tasks:
    """The routes."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", submissions: Submissions) -> None:
        self._tasks = tasks
        self._submissions = submissions

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/tasks", tags=["cwmai"], route_class=StrictRoute)
        router.add_api_route(
            "",
            self.create,
            methods=["POST"],
            operation_id="cwmai_create_task",
            summary="Create a development task",
            openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
        )
        router.add_api_route("", self.list_tasks, operation_id="cwmai_list_tasks", summary="List tasks, newest first")
        return router

    async def create(self, request: Request, body: NewTask) -> TaskView:
        principal = require_scope(request.scope, "tasks")
        told = {"title": body.title, "description": body.description, "estimated_hours": body.estimated_hours}
        submitted = await self._submissions.submit(
            request.scope,
            tasks_pb2.SubmitRequest(
                kind=body.task_type,
                owner_id=principal.user_id,
                payload=orjson.dumps(told),
                labels=orjson.dumps(told),
                priority=_NUMBERS[body.priority],
                idempotency_key=idempotency_key(request.headers.get(IDEMPOTENCY_KEY.decode(), "")),
            ),
        )
        return TaskView(
            id=submitted.task_id,
            title=body.title,
            description=body.description,
            priority=body.priority,
            type=body.task_type,
            estimated_hours=body.estimated_hours,
            status="pending",
            created_at=views.iso(submitted.at),
        )

    async def list_tasks(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> TaskList:
        principal = require_scope(request.scope, "tasks")
        owner = "" if principal.is_admin else principal.user_id
        answer = await self._tasks.ListTasks(tasks_pb2.ListTasksRequest(owner_id=owner, offset=offset, limit=limit))
        shown = [_shown(task) for task in answer.tasks]
        return TaskList(tasks=shown, total=answer.total, limit=limit, offset=offset)


def _shown(task: tasks_pb2.Task) -> TaskView:
    labels = views.json_object(task.labels)
    status = views.state_name(task.state)
    return TaskView.model_validate(
        {
            "id": task.id,
            "title": str(labels.get("title") or task.kind),
            "description": str(labels.get("description") or ""),
            "priority": _WORDS.get(task.priority, "medium"),
            "type": task.kind,
            "estimated_hours": labels.get("estimated_hours"),
            "status": _STATUS.get(status, status),
            "created_at": views.required_instant(task, "created_at"),
        }
    )
