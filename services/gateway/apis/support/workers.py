"""``/workers``: who works and how busy they are, and places for workers from outside."""

import re
from collections.abc import Sequence
from datetime import UTC
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from pydantic import BaseModel, Field, StringConstraints

from chassis.clock import Clock
from chassis.errors import Conflict
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.shapes import WHOLE, Body
from services.gateway.apis.support.shapes import uptime_text
from services.gateway.edge.context import require_scope
from services.gateway.workers.admission import require_worker
from services.gateway.workers.frames import MOST_KINDS, MOST_SLOTS
from services.gateway.workers.kinds import default_kind

WorkerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
WorkerNumber = Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]
_TRAILING_NUMBER = re.compile(r"([0-9]{1,9})$")


class WorkerConfig(Body):
    """What a worker may do: `max_tasks` at once, each for `timeout` seconds, of these kinds."""

    max_tasks: Annotated[int, Field(ge=1, le=MOST_SLOTS), WHOLE] = Field(default=1, examples=[100])
    timeout: Annotated[int, Field(ge=1, le=604_800), WHOLE] = Field(default=300, examples=[30])
    kinds: Annotated[list[Kind], Field(min_length=1, max_length=MOST_KINDS)] | None = Field(
        default=None, description="Without any it does tasks that are meant for it by name: `worker.<worker_id>`."
    )


class NewWorker(Body):
    """A worker from outside that is about to connect."""

    worker_id: WorkerNumber | WorkerName = Field(examples=[3])
    config: WorkerConfig = Field(default_factory=WorkerConfig)


class WorkerPlace(BaseModel):
    """Where it connects. `status` is `reserved`: it works as soon as its socket stands."""

    worker_id: int | str
    status: Literal["reserved"]
    endpoint: str
    kinds: list[str]


class WorkerView(BaseModel):
    """A worker as measured. `id` is its number where it has one; `current_load` goes from 0 to 1."""

    id: int
    name: str
    status: Literal["active", "idle", "draining"]
    tasks_processed: int
    uptime: str = Field(examples=["2h 30m"])
    current_load: float
    external: bool
    kinds: list[str]
    slots: int


class WorkerList(BaseModel):
    """Everyone who works now; active are those who have something to do."""

    total_workers: int
    active_workers: int
    workers: list[WorkerView]


class Workers:
    """The routes."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/workers", tags=["support"], route_class=StrictRoute)
        router.add_api_route(
            "", self.list_workers, operation_id="support_list_workers", summary="Who works, and how busy they are"
        )
        router.add_api_route(
            "",
            self.reserve,
            methods=["POST"],
            operation_id="support_start_worker",
            summary="Make a place for a worker from outside (administrators and workers)",
        )
        return router

    async def list_workers(self, request: Request) -> WorkerList:
        require_scope(request.scope, "tasks")
        summary = await self._tasks.GetSummary(tasks_pb2.GetSummaryRequest())
        numbers = _numbers(summary.workers)
        shown = [self._shown(worker, number) for worker, number in zip(summary.workers, numbers, strict=True)]
        shown.sort(key=lambda worker: worker.id)
        active = sum(worker.status == "active" for worker in shown)
        return WorkerList(total_workers=len(shown), active_workers=active, workers=shown)

    async def reserve(self, request: Request, body: NewWorker) -> WorkerPlace:
        require_worker(request.scope)
        name = str(body.worker_id)
        summary = await self._tasks.GetSummary(tasks_pb2.GetSummaryRequest())
        if any(worker.name == name for worker in summary.workers):
            raise Conflict("A worker of that id works already", code="WORKER_EXISTS", details={"field": "worker_id"})
        # The place is all in its address, so that whichever gateway the worker comes to knows it.
        query: dict[str, Any] = {"slots": body.config.max_tasks, "timeout": body.config.timeout}
        if body.config.kinds:
            query["kinds"] = ",".join(body.config.kinds)
        return WorkerPlace(
            worker_id=body.worker_id,
            status="reserved",
            endpoint=f"{_base(request)}/worker/{quote(name)}?{urlencode(query)}",
            kinds=body.config.kinds or [default_kind(name)],
        )

    def _shown(self, worker: tasks_pb2.WorkerSummary, number: int) -> WorkerView:
        opened_at = worker.opened_at.ToDatetime(tzinfo=UTC)
        working: Literal["active", "idle"] = "active" if worker.running else "idle"
        return WorkerView(
            id=number,
            name=worker.name,
            status="draining" if worker.draining else working,
            tasks_processed=worker.finished,
            uptime=uptime_text((self._clock.now() - opened_at).total_seconds()),
            current_load=round(worker.running / worker.slots, 2) if worker.slots else 0.0,
            external=worker.external,
            kinds=list(worker.kinds),
            slots=worker.slots,
        )


def _numbers(workers: Sequence[tasks_pb2.WorkerSummary]) -> list[int]:
    """A number for each: the one its name ends with, else, and where two have the same, the first that is free."""
    numbers: list[int | None] = []
    for worker in workers:
        found = _TRAILING_NUMBER.search(worker.name)
        number = int(found[1]) if found else None
        numbers.append(None if number in numbers else number)
    free = (number for number in range(2 * len(workers) + 1) if number not in numbers)
    return [next(free) if number is None else number for number in numbers]


def _base(request: Request) -> str:
    scheme = "wss" if request.url.scheme == "https" else "ws"
    return f"{scheme}://{request.url.netloc}"
