"""TaskService: decode, operate, encode."""

# ruff: noqa: N802 - the contract's names

import asyncio
from collections.abc import Mapping
from typing import Any

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.rpc.methods import Start
from chassis.telemetry import current_traceparent
from services.tasks.model.task import Receipt
from services.tasks.operations.intake import Intake
from services.tasks.operations.queries import Queries
from services.tasks.operations.schedules import Schedules
from services.tasks.wire import figures as figures_wire
from services.tasks.wire import schedules as schedules_wire
from services.tasks.wire import tasks as wire

SUBMIT = "/mesh.tasks.v1.TaskService/Submit"


class TaskService(tasks_pb2_grpc.TaskServiceServicer):
    """See the contract."""

    def __init__(self, intake: Intake, queries: Queries, schedules: Schedules) -> None:
        self._intake = intake
        self._queries = queries
        self._schedules = schedules

    async def Submit(self, request: tasks_pb2.SubmitRequest, context: Any) -> tasks_pb2.SubmitResponse:
        del context
        return wire.to_submitted(await self._intake.submit(wire.draft_from(request, current_traceparent())))

    @property
    def starts(self) -> Mapping[str, Start]:
        """What needs no task for each call of a lane."""
        return {SUBMIT: Start(self._begin_submit, wire.to_submitted)}

    def _begin_submit(self, request: tasks_pb2.SubmitRequest, traceparent: str) -> asyncio.Future[Receipt] | None:
        return self._intake.begin(wire.draft_from(request, traceparent))

    async def SubmitMany(self, request: tasks_pb2.SubmitManyRequest, context: Any) -> tasks_pb2.SubmitManyResponse:
        del context
        traceparent = current_traceparent()
        receipts = await self._intake.submit_many([wire.draft_from(one, traceparent) for one in request.requests])
        return tasks_pb2.SubmitManyResponse(responses=map(wire.to_submitted, receipts))

    async def RequeueTask(self, request: tasks_pb2.RequeueTaskRequest, context: Any) -> tasks_pb2.RequeueTaskResponse:
        del context
        task, requeued = await self._queries.requeue(request.id, request.owner_id, request.attempts)
        return tasks_pb2.RequeueTaskResponse(task=wire.to_task(task), requeued=requeued)

    async def GetTask(self, request: tasks_pb2.GetTaskRequest, context: Any) -> tasks_pb2.GetTaskResponse:
        del context
        return tasks_pb2.GetTaskResponse(task=wire.to_task(await self._queries.get(request.id, request.owner_id)))

    async def ListTasks(self, request: tasks_pb2.ListTasksRequest, context: Any) -> tasks_pb2.ListTasksResponse:
        del context
        tasks, total = await self._queries.list_tasks(
            request.owner_id,
            wire.states_from(request.states),
            request.kinds,
            offset=request.offset,
            limit=request.limit,
        )
        return tasks_pb2.ListTasksResponse(tasks=map(wire.to_task, tasks), total=total)

    async def CancelTask(self, request: tasks_pb2.CancelTaskRequest, context: Any) -> tasks_pb2.CancelTaskResponse:
        del context
        task = await self._queries.cancel(request.id, request.owner_id)
        return tasks_pb2.CancelTaskResponse(task=wire.to_task(task))

    async def ListEvents(self, request: tasks_pb2.ListEventsRequest, context: Any) -> tasks_pb2.ListEventsResponse:
        del context
        events = await self._queries.list_events(request.id, request.owner_id, request.since, request.limit)
        return tasks_pb2.ListEventsResponse(events=map(wire.to_event, events))

    async def GetSummary(self, request: tasks_pb2.GetSummaryRequest, context: Any) -> tasks_pb2.GetSummaryResponse:
        del request, context
        return figures_wire.to_summary(self._queries.figures.overview())

    async def ListChannels(
        self, request: tasks_pb2.ListChannelsRequest, context: Any
    ) -> tasks_pb2.ListChannelsResponse:
        del request, context
        channels = self._queries.figures.summary.channels
        return tasks_pb2.ListChannelsResponse(channels=map(figures_wire.to_channel, channels))

    async def CreateSchedule(
        self, request: tasks_pb2.CreateScheduleRequest, context: Any
    ) -> tasks_pb2.CreateScheduleResponse:
        del context
        schedule = await self._schedules.create(request.owner_id, schedules_wire.creation_from(request))
        return tasks_pb2.CreateScheduleResponse(schedule=schedules_wire.to_schedule(schedule))

    async def GetSchedule(self, request: tasks_pb2.GetScheduleRequest, context: Any) -> tasks_pb2.GetScheduleResponse:
        del context
        schedule = await self._schedules.get(request.id, request.owner_id)
        return tasks_pb2.GetScheduleResponse(schedule=schedules_wire.to_schedule(schedule))

    async def ListSchedules(
        self, request: tasks_pb2.ListSchedulesRequest, context: Any
    ) -> tasks_pb2.ListSchedulesResponse:
        del context
        schedules, total = await self._schedules.list_schedules(
            request.owner_id, offset=request.offset, limit=request.limit
        )
        return tasks_pb2.ListSchedulesResponse(schedules=map(schedules_wire.to_schedule, schedules), total=total)

    async def UpdateSchedule(
        self, request: tasks_pb2.UpdateScheduleRequest, context: Any
    ) -> tasks_pb2.UpdateScheduleResponse:
        del context
        schedule = await self._schedules.update(request.id, request.owner_id, schedules_wire.update_from(request))
        return tasks_pb2.UpdateScheduleResponse(schedule=schedules_wire.to_schedule(schedule))

    async def DeleteSchedule(
        self, request: tasks_pb2.DeleteScheduleRequest, context: Any
    ) -> tasks_pb2.DeleteScheduleResponse:
        del context
        await self._schedules.delete(request.id, request.owner_id)
        return tasks_pb2.DeleteScheduleResponse()
