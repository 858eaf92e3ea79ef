"""``/task``: customers' requests as tasks."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from pydantic import BaseModel, Field, StringConstraints

from chassis.errors import Invalid, NotFound, Unavailable
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, IDEMPOTENCY_PARAMETER, idempotency_key
from services.gateway.apis.ids import is_task_id
from services.gateway.apis.shapes import Body
from services.gateway.apis.submissions import Submissions
from services.gateway.apis.support.shapes import seconds_text
from services.gateway.edge.context import require_scope
from services.gateway.workers.kinds import is_by_name

Kind = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]
Status = Literal["scheduled", "queued", "running", "completed", "failed", "dead", "cancelled", "expired"]
Priority = Literal["low", "normal", "high", "critical"]
_UNKNOWN_KIND = "UNKNOWN_KIND"
_PRIORITIES = frozenset({"low", "normal", "high", "critical"})
_EXAMPLE = {
    "text": "Great customer service experience!",
    "channel": "chat",
    "customer_id": "CUST123",
    "priority": "high",
}


class NewTask(Body):
    """A task to be done. Its priority may also stand in its data."""

    type: Kind = Field(examples=["sentiment_analysis"])
    data: dict[str, Any] = Field(default_factory=dict, examples=[_EXAMPLE])
    priority: Priority | None = None


class TaskAccepted(BaseModel):
    """It is stored: it will be done. `estimated_process_time` is measured, ``unknown`` before anything was."""

    task_id: str
    status: Literal["accepted"]
    queue_position: int
    estimated_process_time: str = Field(examples=["2s"])


class TaskFailure(BaseModel):
    """Why it did not succeed."""

    code: str
    message: str


class TaskState(BaseModel):
    """A task as it is now; `result` is null until it has succeeded."""

    task_id: str
    status: Status
    result: Any
    error: TaskFailure | None
    progress: float


class Tasks:
    """The routes."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", submissions: Submissions) -> None:
        self._tasks = tasks
        self._submissions = submissions

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/task", tags=["support"], route_class=StrictRoute)
        router.add_api_route(
            "",
            self.submit,
            methods=["POST"],
            status_code=202,
            operation_id="support_submit_task",
            summary="Submit a task",
            openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
        )
        router.add_api_route("/{task_id}", self.get, operation_id="support_get_task", summary="Look at a task")
        return router

    async def submit(self, request: Request, body: NewTask) -> TaskAccepted:
        principal = require_scope(request.scope, "tasks")
        inside = body.data.get("priority")
        priority = body.priority or (inside if isinstance(inside, str) and inside in _PRIORITIES else "normal")
        wanted = tasks_pb2.SubmitRequest(
            kind=body.type,
            payload=orjson.dumps(body.data),
            owner_id=principal.user_id,
            priority=views.priority_number(priority),
            idempotency_key=idempotency_key(request.headers.get(IDEMPOTENCY_KEY.decode(), "")),
        )
        try:
            submitted = await self._submissions.submit(request.scope, wanted)
        except Invalid as error:
            if error.code == _UNKNOWN_KIND and is_by_name(body.type):
                raise Unavailable("No worker of that name has connected yet", code="WORKER_OFFLINE") from None
            raise
        return TaskAccepted(
            task_id=submitted.task_id,
            status="accepted",
            queue_position=submitted.queue_position,
            estimated_process_time=seconds_text(submitted.estimated_seconds),
        )

    async def get(self, request: Request, task_id: str) -> TaskState:
        principal = require_scope(request.scope, "tasks")
        if not is_task_id(task_id):
            raise NotFound("Task not found", code="TASK_NOT_FOUND")
        owner = "" if principal.is_admin else principal.user_id
        task = (await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=task_id, owner_id=owner))).task
        error = {"code": task.error.code, "message": task.error.message} if task.HasField("error") else None
        return TaskState.model_validate(
            {
                "task_id": task.id,
                "status": views.state_name(task.state),
                "result": views.json_value(task.result),
                "error": error,
                "progress": task.progress,
            }
        )
