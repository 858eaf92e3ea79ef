"""``/api/v1/tasks/{id}/events``: what happened to a task, as a list, or as a stream that goes on until its end."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.clock import Clock
from chassis.errors import Invalid
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.event_stream import EventStream
from services.gateway.apis.v1.task_shapes import TaskEvents, TaskNews, event_of, known, owner_of
from services.gateway.apis.watching import watch_credential
from services.gateway.edge.context import require_scope
from services.gateway.identity.operations import Identity
from services.gateway.live.feed import Feeds
from services.gateway.live.frames import Frame
from services.gateway.live.tasks import Tasks
from services.gateway.live.trail import Trail

_STREAM = "text/event-stream"
_LAST_EVENT_ID = "Last-Event-ID"
_LARGEST_SEQUENCE = 2**63 - 1
_KEEP_ALIVE = b": still here\n\n"
_EVENT = {
    "type": "object",
    "required": ["id", "data"],
    "properties": {
        "id": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": TaskNews.model_json_schema(),
        },
    },
}
_DOCUMENTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "OK. With `Accept: text/event-stream` the events are server-sent, the past ones first, until "
        "the task has ended; each has its sequence as its id.",
        "content": {_STREAM: {"itemSchema": _EVENT}},
    }
}


class TaskEventRoutes:
    """The routes."""

    def __init__(
        self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", feeds: Feeds, identity: Identity, clock: Clock
    ) -> None:
        self._tasks = tasks
        self._identity = identity
        self._trail = Trail(feeds.tasks, Tasks(tasks), clock)

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/tasks", tags=["v1"], route_class=StrictRoute)
        router.add_api_route(
            "/{task_id}/events",
            self.events,
            response_model=TaskEvents,
            responses=_DOCUMENTED,
            operation_id="v1_list_task_events",
            summary="What happened to it, as a list or as a stream",
        )
        return router

    async def events(
        self,
        request: Request,
        task_id: str,
        since: Annotated[int, Query(ge=0, le=_LARGEST_SEQUENCE)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> TaskEvents | Response:
        owner = owner_of(require_scope(request.scope, "tasks"))
        if _STREAM in request.headers.get("accept", "").lower():
            since = _resumed(request.headers.get(_LAST_EVENT_ID, ""), since)
            answer = await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=known(task_id), owner_id=owner))
            frames = self._trail.follow(answer.task, since, watch_credential(self._identity, request.scope))
            return EventStream(_encoded(frames))
        query = tasks_pb2.ListEventsRequest(id=known(task_id), owner_id=owner, since=since, limit=limit)
        listed = await self._tasks.ListEvents(query)
        return TaskEvents(task_id=task_id, events=[event_of(event) for event in listed.events])


async def _encoded(frames: AsyncGenerator[Frame | None]) -> AsyncGenerator[bytes]:
    try:
        async for frame in frames:
            yield _KEEP_ALIVE if frame is None else f"id: {frame.sequence}\ndata: {frame.text}\n\n".encode()
    finally:
        await frames.aclose()


def _resumed(last_event_id: str, since: int) -> int:
    """What a browser that connects again has seen, else what the query says. Raises Invalid for what is no number."""
    if not last_event_id:
        return since
    if not (last_event_id.isascii() and last_event_id.isdigit()) or int(last_event_id[:20]) > _LARGEST_SEQUENCE:
        raise Invalid("Last-Event-ID is the sequence of an event", details={"field": _LAST_EVENT_ID})
    return int(last_event_id)
