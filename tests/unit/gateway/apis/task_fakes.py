"""The tasks service from memory."""
# ruff: noqa: N802 - the contract names its methods so

from datetime import timedelta
from typing import Any

from mesh.tasks.v1 import tasks_pb2

from chassis.errors import Conflict, Invalid, MeshError, NotFound
from services.gateway.views import stamp_of
from tests.support.clock import FakeClock

KINDS = ("automation", "sentiment_analysis", "feature", "bug", "docs", "test", "llm.chat", "llm.batch", "model.pull")


class FakeSchedules:
    """The schedules' part."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.schedules: dict[str, tasks_pb2.Schedule] = {}

    async def CreateSchedule(self, request: Any, **_: Any) -> Any:
        self._check_times(request)
        schedule = tasks_pb2.Schedule(
            id=f"sched_{len(self.schedules):026d}",
            owner_id=request.owner_id,
            name=request.name,
            cron=request.cron,
            timezone=request.timezone,
            misfire=request.misfire,
            paused=request.paused,
            task=request.task,
            created_at=stamp_of(self._clock.now()),
        )
        self.schedules[schedule.id] = schedule
        return tasks_pb2.CreateScheduleResponse(schedule=schedule)

    async def GetSchedule(self, request: Any, **_: Any) -> Any:
        return tasks_pb2.GetScheduleResponse(schedule=self._schedule(request))

    async def ListSchedules(self, request: Any, **_: Any) -> Any:
        found = [each for each in self.schedules.values() if request.owner_id in {"", each.owner_id}][::-1]
        page = found[request.offset : request.offset + request.limit]
        return tasks_pb2.ListSchedulesResponse(schedules=page, total=len(found))

    async def UpdateSchedule(self, request: Any, **_: Any) -> Any:
        schedule = self._schedule(request)
        self._check_times(request)
        for name in ("name", "cron", "timezone", "misfire", "paused"):
            if request.HasField(name):
                setattr(schedule, name, getattr(request, name))
        if request.HasField("task"):
            schedule.task.CopyFrom(request.task)
        return tasks_pb2.UpdateScheduleResponse(schedule=schedule)

    async def DeleteSchedule(self, request: Any, **_: Any) -> Any:
        del self.schedules[self._schedule(request).id]
        return tasks_pb2.DeleteScheduleResponse()

    @staticmethod
    def _check_times(request: Any) -> None:
        if request.cron and len(request.cron.split()) != 5:
            raise Invalid("Not a cron expression", code="INVALID_CRON", details={"field": "cron"})

    def _schedule(self, request: Any) -> tasks_pb2.Schedule:
        schedule = self.schedules.get(request.id)
        if schedule is None or request.owner_id not in {"", schedule.owner_id}:
            raise NotFound("Schedule not found", code="SCHEDULE_NOT_FOUND")
        return schedule


class FakeTasks(FakeSchedules):
    """Tasks that stay queued unless a test says otherwise. `failure` is raised by whatever submits."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.tasks: dict[str, tasks_pb2.Task] = {}
        self.keys: dict[tuple[str, str], tuple[bytes, tasks_pb2.SubmitResponse]] = {}
        self.workers: list[tasks_pb2.WorkerSummary] = []
        self.channels: list[tasks_pb2.ChannelSummary] = []
        self.requests: list[tasks_pb2.SubmitRequest] = []
        self.failure: MeshError | None = None

    async def Submit(self, request: Any, **_: Any) -> Any:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        if request.kind not in KINDS:
            known = ", ".join(KINDS)
            raise Invalid("Unknown kind", code="UNKNOWN_KIND", details={"field": "task_type", "known": known})
        key = request.owner_id, request.idempotency_key
        if request.idempotency_key and key in self.keys:
            payload, first = self.keys[key]
            if payload != request.payload:
                raise Conflict("The key was used for another request", code="IDEMPOTENCY_MISMATCH")
            again = tasks_pb2.SubmitResponse(replayed=True)
            again.MergeFrom(first)
            again.task.CopyFrom(self.tasks[first.task.id])
            return again
        task = self._made(request)
        self.tasks[task.id] = task
        begins = max(task.created_at.ToDatetime(), task.run_at.ToDatetime())
        answer = tasks_pb2.SubmitResponse(task=task, queue_position=1, estimated_seconds=300)
        answer.estimated_at.FromDatetime(begins + timedelta(seconds=300))
        self.keys[key] = request.payload, answer
        return answer

    def _made(self, request: tasks_pb2.SubmitRequest) -> tasks_pb2.Task:
        task = tasks_pb2.Task(
            id=f"task_{len(self.tasks):026d}",
            kind=request.kind,
            owner_id=request.owner_id,
            priority=request.priority,
            state=tasks_pb2.STATE_QUEUED,
            max_attempts=3,
            payload=request.payload,
            labels=request.labels,
            run_after=request.run_after,
            join=request.join,
            unique_key=request.unique_key,
            created_at=stamp_of(self._clock.now()),
        )
        if request.HasField("run_at"):
            task.run_at.CopyFrom(request.run_at)
        return task

    async def SubmitMany(self, request: Any, **_: Any) -> Any:
        return tasks_pb2.SubmitManyResponse(responses=[await self.Submit(each) for each in request.requests])

    async def GetTask(self, request: Any, **_: Any) -> Any:
        return tasks_pb2.GetTaskResponse(task=self._owned(request))

    async def ListTasks(self, request: Any, **_: Any) -> Any:
        found = [task for task in self.tasks.values() if request.owner_id in {"", task.owner_id}]
        found = [task for task in found if not request.states or task.state in request.states][::-1]
        page = found[request.offset : request.offset + request.limit]
        return tasks_pb2.ListTasksResponse(tasks=page, total=len(found))

    async def CancelTask(self, request: Any, **_: Any) -> Any:
        task = self._owned(request)
        if task.state != tasks_pb2.STATE_QUEUED:
            name = tasks_pb2.State.Name(task.state).removeprefix("STATE_").lower()
            raise Conflict("The task has ended", code="TASK_ENDED", details={"state": name})
        task.state = tasks_pb2.STATE_CANCELLED
        return tasks_pb2.CancelTaskResponse(task=task)

    async def RequeueTask(self, request: Any, **_: Any) -> Any:
        task = self._owned(request)
        if task.state == tasks_pb2.STATE_SUCCEEDED:
            raise Conflict("It succeeded", code="NOT_REQUEUABLE", details={"state": "succeeded"})
        task.state = tasks_pb2.STATE_QUEUED
        return tasks_pb2.RequeueTaskResponse(task=task, requeued=True)

    async def ListEvents(self, request: Any, **_: Any) -> Any:
        ended = self._owned(request).state > tasks_pb2.STATE_RUNNING
        types = ["queued", *(["started", "succeeded"] if ended else [])]
        at = stamp_of(self._clock.now())
        events = [tasks_pb2.Event(sequence=n, type=kind, at=at, data=b"{}") for n, kind in enumerate(types, start=1)]
        return tasks_pb2.ListEventsResponse(events=[event for event in events if event.sequence > request.since])

    async def GetSummary(self, request: Any, **_: Any) -> Any:
        return tasks_pb2.GetSummaryResponse(workers=self.workers, known_kinds=KINDS)

    async def ListChannels(self, request: Any, **_: Any) -> Any:
        return tasks_pb2.ListChannelsResponse(channels=self.channels)

    def _owned(self, request: Any) -> tasks_pb2.Task:
        task = self.tasks.get(request.id)
        if task is None or request.owner_id not in {"", task.owner_id}:
            raise NotFound("Task not found", code="TASK_NOT_FOUND")
        return task
