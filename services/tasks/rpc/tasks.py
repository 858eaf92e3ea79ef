"""TaskService: decode, operate, encode."""

# ruff: noqa: N802 - the contract's names

from typing import Any

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.telemetry import current_traceparent
from services.tasks import wire
from services.tasks.operations.intake import Intake
from services.tasks.operations.queries import Queries


class TaskService(tasks_pb2_grpc.TaskServiceServicer):
    """See the contract."""

    def __init__(self, intake: Intake, queries: Queries) -> None:
        self._intake = intake
        self._queries = queries

    async def Submit(self, request: tasks_pb2.SubmitRequest, context: Any) -> tasks_pb2.SubmitResponse:
        del context
        return wire.to_submitted(await self._intake.submit(wire.draft_from(request, current_traceparent())))

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
        figures = self._queries.figures
        summary = figures.summary
        return wire.to_summary(summary.depths, summary.workers, summary.rates, figures.known_kinds)
