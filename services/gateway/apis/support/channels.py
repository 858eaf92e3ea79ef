"""``/channels``: how busy the channels are that customers come through, measured."""

from datetime import UTC, timedelta
from typing import Literal

from fastapi import APIRouter, Request
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from pydantic import BaseModel, Field

from chassis.clock import Clock
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.support.shapes import seconds_text
from services.gateway.edge.context import require_scope

_RECENT = timedelta(minutes=5)


class ChannelView(BaseModel):
    """A channel. `current_load` counts its tasks that are not done; `response_time` is from acceptance to the end."""

    status: Literal["active", "idle"]
    current_load: int
    response_time: str = Field(examples=["2s"])
    finished: int
    failed: int


class ChannelList(BaseModel):
    """By name; a channel is listed from its first task on."""

    channels: dict[str, ChannelView]


class Channels:
    """The route."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock

    def router(self) -> APIRouter:
        router = APIRouter(tags=["support"], route_class=StrictRoute)
        router.add_api_route(
            "/channels", self.list_channels, operation_id="support_list_channels", summary="How busy the channels are"
        )
        return router

    async def list_channels(self, request: Request) -> ChannelList:
        require_scope(request.scope, "tasks")
        answer = await self._tasks.ListChannels(tasks_pb2.ListChannelsRequest())
        return ChannelList(channels={channel.channel: self._shown(channel) for channel in answer.channels})

    def _shown(self, channel: tasks_pb2.ChannelSummary) -> ChannelView:
        load = channel.waiting + channel.running
        last = channel.last_finished_at.ToDatetime(tzinfo=UTC)
        busy = load > 0 or self._clock.now() - last < _RECENT
        return ChannelView(
            status="active" if busy else "idle",
            current_load=load,
            response_time=seconds_text(channel.response_seconds),
            finished=channel.finished,
            failed=channel.failed,
        )
