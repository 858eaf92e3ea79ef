"""``/api/v1/tasks/schedules``: tasks that are submitted again and again, when a cron expression says so."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from pydantic import BaseModel, Field, StringConstraints

from chassis.errors import NotFound
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.ids import is_schedule_id
from services.gateway.apis.shapes import Body
from services.gateway.apis.special_kinds import check_schedulable
from services.gateway.apis.v1.shapes import Page, Paginated, PerPage, paginated
from services.gateway.apis.v1.task_shapes import Work, owner_of, work_request
from services.gateway.edge.context import require_scope
from services.gateway.views import Instant

Name = Annotated[str, StringConstraints(max_length=200)]
Cron = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Zone = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Misfire = Literal["skip", "once", "all"]
_PREFIX = "MISFIRE_"


class NewSchedule(Body):
    """When and what.

    `cron` has five fields (minute, hour, day of month, month, day of week), six with seconds first, or is @hourly,
    @daily, @weekly, @monthly or @yearly. `misfire` says what becomes of times that passed while the mesh was down.
    For one single time a task's own `run_at` is enough. Conversations (`llm.chat`, `llm.batch`) are not scheduled: they
    count against the tokens a minute of whoever submits them.
    """

    name: Name = Field(default="", examples=["nightly report"])
    cron: Cron = Field(examples=["0 3 * * *"])
    timezone: Zone = Field(default="UTC", examples=["Europe/Berlin"])
    misfire: Misfire = "once"
    paused: bool = False
    task: Work


class ScheduleChange(Body):
    """What is to change; fields that are absent or null stay."""

    name: Name | None = None
    cron: Cron | None = None
    timezone: Zone | None = None
    misfire: Misfire | None = None
    paused: bool | None = None
    task: Work | None = None


class ScheduledWork(BaseModel):
    """What it submits."""

    task_type: str
    payload: Any
    priority: str
    max_attempts: int | None
    timeout_seconds: int | None
    unique_key: str | None


class ScheduleView(BaseModel):
    """A schedule. `next_at` is null while it is paused."""

    id: str
    name: str
    cron: str
    timezone: str
    misfire: Misfire
    paused: bool
    task: ScheduledWork
    created_at: Instant
    next_at: Instant | None
    last_at: Instant | None
    last_task_id: str | None


class Schedules:
    """The routes."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub") -> None:
        self._tasks = tasks

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/tasks/schedules", tags=["v1"], route_class=StrictRoute)

        def add(path: str, endpoint: Any, method: str, operation: str, summary: str, *, status: int = 200) -> None:
            router.add_api_route(
                path, endpoint, methods=[method], status_code=status, operation_id=f"v1_{operation}", summary=summary
            )

        add("", self.create, "POST", "create_schedule", "Submit a task again and again", status=201)
        add("", self.list_schedules, "GET", "list_schedules", "List schedules, newest first")
        add("/{schedule_id}", self.get, "GET", "get_schedule", "Look at a schedule")
        add("/{schedule_id}", self.change, "PATCH", "change_schedule", "Change a schedule")
        add(
            "/{schedule_id}",
            self.delete,
            "DELETE",
            "delete_schedule",
            "Delete a schedule; its tasks live on",
            status=204,
        )
        add("/{schedule_id}/pause", self.pause, "POST", "pause_schedule", "Submit nothing until it is resumed")
        add("/{schedule_id}/resume", self.resume, "POST", "resume_schedule", "Go on from the next time")
        return router

    async def create(self, request: Request, body: NewSchedule) -> ScheduleView:
        principal = require_scope(request.scope, "tasks")
        check_schedulable(body.task.task_type, principal)
        answer = await self._tasks.CreateSchedule(
            tasks_pb2.CreateScheduleRequest(
                owner_id=principal.user_id,
                name=body.name,
                cron=body.cron,
                timezone=body.timezone,
                misfire=_number(body.misfire),
                paused=body.paused,
                task=work_request(body.task),
            )
        )
        return _shown(answer.schedule)

    async def list_schedules(self, request: Request, page: Page = 1, per_page: PerPage = 20) -> Paginated[ScheduleView]:
        owner = owner_of(require_scope(request.scope, "tasks"))
        query = tasks_pb2.ListSchedulesRequest(owner_id=owner, offset=(page - 1) * per_page, limit=per_page)
        answer = await self._tasks.ListSchedules(query)
        items = [_shown(schedule) for schedule in answer.schedules]
        return paginated(items, total=answer.total, page=page, per_page=per_page)

    async def get(self, request: Request, schedule_id: str) -> ScheduleView:
        owner = owner_of(require_scope(request.scope, "tasks"))
        query = tasks_pb2.GetScheduleRequest(id=_known(schedule_id), owner_id=owner)
        return _shown((await self._tasks.GetSchedule(query)).schedule)

    async def change(self, request: Request, schedule_id: str, body: ScheduleChange) -> ScheduleView:
        wanted = tasks_pb2.UpdateScheduleRequest(
            **body.model_dump(exclude_none=True, include={"name", "cron", "timezone", "paused"})
        )
        if body.misfire is not None:
            wanted.misfire = _number(body.misfire)
        if body.task is not None:
            check_schedulable(body.task.task_type, require_scope(request.scope, "tasks"))
            wanted.task.CopyFrom(work_request(body.task))
        return await self._update(request, schedule_id, wanted)

    async def pause(self, request: Request, schedule_id: str) -> ScheduleView:
        return await self._update(request, schedule_id, tasks_pb2.UpdateScheduleRequest(paused=True))

    async def resume(self, request: Request, schedule_id: str) -> ScheduleView:
        return await self._update(request, schedule_id, tasks_pb2.UpdateScheduleRequest(paused=False))

    async def delete(self, request: Request, schedule_id: str) -> None:
        owner = owner_of(require_scope(request.scope, "tasks"))
        await self._tasks.DeleteSchedule(tasks_pb2.DeleteScheduleRequest(id=_known(schedule_id), owner_id=owner))

    async def _update(
        self, request: Request, schedule_id: str, wanted: tasks_pb2.UpdateScheduleRequest
    ) -> ScheduleView:
        wanted.id = _known(schedule_id)
        principal = require_scope(request.scope, "tasks")
        wanted.owner_id = owner_of(principal)
        if wanted.HasField("paused") and not wanted.paused and not wanted.HasField("task"):
            # One that was made when its kind could still be scheduled stays paused.
            query = tasks_pb2.GetScheduleRequest(id=wanted.id, owner_id=wanted.owner_id)
            check_schedulable((await self._tasks.GetSchedule(query)).schedule.task.kind, principal)
        return _shown((await self._tasks.UpdateSchedule(wanted)).schedule)


def _known(schedule_id: str) -> str:
    """An id that could be a schedule's; anything else is none, without asking."""
    if not is_schedule_id(schedule_id):
        raise NotFound("Schedule not found", code="SCHEDULE_NOT_FOUND")
    return schedule_id


def _number(misfire: Misfire) -> tasks_pb2.Misfire.ValueType:
    return tasks_pb2.Misfire.Value(_PREFIX + misfire.upper())


def _shown(schedule: tasks_pb2.Schedule) -> ScheduleView:
    task = schedule.task
    name = tasks_pb2.Misfire.Name(schedule.misfire or tasks_pb2.MISFIRE_ONCE)
    return ScheduleView.model_validate(
        {
            "id": schedule.id,
            "name": schedule.name,
            "cron": schedule.cron,
            "timezone": schedule.timezone,
            "misfire": name.removeprefix(_PREFIX).lower(),
            "paused": schedule.paused,
            "task": {
                "task_type": task.kind,
                "payload": views.json_value(task.payload),
                "priority": views.priority_name(task.priority),
                "max_attempts": task.max_attempts or None,
                "timeout_seconds": task.timeout_seconds or None,
                "unique_key": task.unique_key or None,
            },
            "created_at": views.required_instant(schedule, "created_at"),
            "next_at": views.instant(schedule, "next_at"),
            "last_at": views.instant(schedule, "last_at"),
            "last_task_id": schedule.last_task_id or None,
        }
    )
