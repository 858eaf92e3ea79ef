"""``/api/v1/tasks``: submit, look, list, cancel and requeue. What happens to a task is told in `task_events`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import Conflict
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, IDEMPOTENCY_PARAMETER, idempotency_key
from services.gateway.apis.submissions import Submissions
from services.gateway.apis.v1 import task_shapes
from services.gateway.apis.v1.shapes import Page, Paginated, PerPage, paginated
from services.gateway.apis.v1.task_shapes import (
    Accepted,
    AcceptedBatch,
    Batch,
    Kind,
    Requeue,
    Status,
    Submission,
    TaskDetail,
    TaskResult,
    TaskView,
    known,
    owner_of,
)
from services.gateway.edge.context import require_scope

_TASK_ENDED = "TASK_ENDED"


class Tasks:
    """The routes."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", submissions: Submissions) -> None:
        self._tasks = tasks
        self._submissions = submissions

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
        add(
            "/batch",
            self.submit_many,
            methods=["POST"],
            status_code=201,
            operation_id="v1_submit_tasks",
            summary="Submit many tasks, all or none",
        )
        add("", self.list_tasks, operation_id="v1_list_tasks", summary="List tasks, newest first")
        add("/{task_id}", self.get, operation_id="v1_get_task", summary="Look at a task")
        add(
            "/{task_id}/result", self.result, operation_id="v1_get_task_result", summary="Its result, once there is one"
        )
        add(
            "/{task_id}/requeue",
            self.requeue,
            methods=["POST"],
            operation_id="v1_requeue_task",
            summary="Try again what failed, ran out of attempts or was cancelled",
        )
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
        submitted = await self._submissions.submit(request.scope, task_shapes.submit_request(body, principal, key))
        return task_shapes.accepted(submitted)

    async def submit_many(self, request: Request, body: Batch) -> AcceptedBatch:
        principal = require_scope(request.scope, "tasks")
        requests = [task_shapes.submit_request(each, principal, "") for each in body.tasks]
        submitted = await self._submissions.submit_many(request.scope, requests)
        return AcceptedBatch(tasks=[task_shapes.accepted(each) for each in submitted])

    async def get(self, request: Request, task_id: str) -> TaskDetail:
        return task_shapes.detail(await self._task(request, task_id))

    async def result(self, request: Request, task_id: str) -> TaskResult:
        return task_shapes.result_of(await self._task(request, task_id))

    async def list_tasks(
        self,
        request: Request,
        status: Annotated[list[Status] | None, Query(max_length=8)] = None,
        task_type: Annotated[list[Kind] | None, Query(max_length=20)] = None,
        page: Page = 1,
        per_page: PerPage = 20,
    ) -> Paginated[TaskView]:
        query = tasks_pb2.ListTasksRequest(
            owner_id=owner_of(require_scope(request.scope, "tasks")),
            states=[views.state_number(each) for each in status or []],
            kinds=task_type or [],
            offset=(page - 1) * per_page,
            limit=per_page,
        )
        answer = await self._tasks.ListTasks(query)
        items = [TaskView(**task_shapes.shown(task)) for task in answer.tasks]
        return paginated(items, total=answer.total, page=page, per_page=per_page)

    async def requeue(self, request: Request, task_id: str, body: Requeue | None = None) -> TaskDetail:
        owner = owner_of(require_scope(request.scope, "tasks"))
        wanted = body or Requeue()
        query = tasks_pb2.RequeueTaskRequest(id=known(task_id), owner_id=owner, attempts=wanted.attempts)
        return task_shapes.detail(await self._submissions.requeue(request.scope, query))

    async def cancel(self, request: Request, task_id: str) -> None:
        owner = owner_of(require_scope(request.scope, "tasks"))
        try:
            await self._tasks.CancelTask(tasks_pb2.CancelTaskRequest(id=known(task_id), owner_id=owner))
        except Conflict as error:
            raise _in_words(error) from None

    async def _task(self, request: Request, task_id: str) -> tasks_pb2.Task:
        owner = owner_of(require_scope(request.scope, "tasks"))
        answer = await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=known(task_id), owner_id=owner))
        return answer.task


def _in_words(error: Conflict) -> Conflict:
    """A task that has ended already, with its final status in the words of this API."""
    state = error.details.get("state", "")
    if error.code != _TASK_ENDED or not state:
        return error
    return Conflict(error.message, code=error.code, details={"status": views.state_name(views.state_number(state))})
