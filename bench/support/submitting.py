"""A client of this project's tasks service, over the lane that the gateway uses or with single calls."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, TypeAlias

from mesh.tasks.v1 import tasks_pb2_grpc

from chassis.clock import SystemClock
from chassis.config import Discovery, Process
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane
from chassis.rpc.peer import open_peer

Transport: TypeAlias = Literal["lane", "unary"]


@asynccontextmanager
async def submitting(
    address: str, transport: Transport = "lane"
) -> AsyncIterator["tasks_pb2_grpc.TaskServiceAsyncStub"]:
    """The service at host:port."""
    async with AsyncExitStack() as stack:
        host = Host("bench", Process(), SystemClock(), stack)
        lookup = Discovery(tasks_address=address)
        opened = open_lane(host, "tasks", lookup) if transport == "lane" else open_peer(host, "tasks", lookup)
        yield tasks_pb2_grpc.TaskServiceStub(await host.enter(opened))
