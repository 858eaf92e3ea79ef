"""The gRPC face of a process: its services, health with separate names for liveness and readiness, reflection,
lanes.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from mesh.lane.v1 import lane_pb2_grpc

from chassis import discovery
from chassis.config import Discovery, Rpc
from chassis.lifecycle import Host
from chassis.logging import get_logger
from chassis.rpc.http2.server import Server
from chassis.rpc.lane_server import LaneServicer
from chassis.rpc.methods import BatchHandler, MethodTable, Start

log = get_logger(__name__)

LIVENESS, READINESS = "liveness", "readiness"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcServer:
    """A server that answers. `port` is the one it got."""

    port: int


@asynccontextmanager
async def open_server(
    host: Host,
    settings: Rpc,
    lookup: Discovery,
    *,
    register: Sequence[Callable[[Any], None]],
    batches: Mapping[str, BatchHandler] | None = None,
    starts: Mapping[str, Start] | None = None,
    health_names: Sequence[str] = (),
) -> AsyncIterator[RpcServer]:
    """Serves until it is closed, and announces itself to those who look the service up.

    Open it last: from here on calls arrive. On drain it first disappears from discovery, then lets lanes and calls end.

    Args:
        register: the generated ``add_…Servicer_to_server`` functions with their servicer bound.
        batches: by full method name, handlers that answer all calls of a lane frame at once.
        starts: the same for those that answer calls of a lane without a task for each.
        health_names: what health is asked for besides, where others than the mesh have names for it.
    """
    table = MethodTable(batches, starts)
    for add in register:
        add(table)
    lanes = LaneServicer(table.methods)
    server = Server(max_message_bytes=settings.max_message_bytes, max_age_seconds=settings.max_connection_age_seconds)
    table.add_to(server)
    lane_pb2_grpc.add_LaneServiceServicer_to_server(lanes, server)  # type: ignore[arg-type]  # as good as grpc's own
    await _add_health(host, server, (*table.services, *health_names))
    add_reflection(server, (*table.services, health.SERVICE_NAME))
    port = await server.listen(host.settings.host, settings.port)

    async def drain() -> None:
        await lanes.drain()
        await server.stop(host.settings.drain_seconds)

    host.on_drain("rpc", drain)
    log.info("Serving gRPC", port=port)
    try:
        async with discovery.register(host, lookup, host.name, host.settings.reachable_at, port):
            yield RpcServer(port=port)
    finally:
        await server.stop(None)


async def _add_health(host: Host, server: Server, services: Sequence[str]) -> None:
    servicer = health.aio.HealthServicer()
    for name in ("", LIVENESS):
        await servicer.set(name, _SERVING)

    async def tell(ready: bool) -> None:  # noqa: FBT001 - it is the state itself
        for name in (READINESS, *services):
            await servicer.set(name, _SERVING if ready else _NOT_SERVING)

    await tell(host.health.ready)
    host.health.on_change(tell)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


def add_reflection(server: Server, services: Sequence[str]) -> None:
    """Lets clients ask which methods these services have."""
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
