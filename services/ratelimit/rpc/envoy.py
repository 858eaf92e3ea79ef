"""The gRPC face of `DescriptorLimits`: Envoy's rate limit service, on the process's own port and on one of its own."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from chassis.lifecycle import Host
from chassis.rpc.http2.server import Server
from chassis.rpc.http2.tls import Certificates
from chassis.rpc.methods import MethodTable
from chassis.rpc.server import add_reflection
from services.ratelimit.config import Envoy
from services.ratelimit.descriptors.limits import DescriptorLimits

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
SHOULD_RATE_LIMIT = f"/{SERVICE}/ShouldRateLimit"
# What envoyproxy/ratelimit's health is asked for by.
HEALTH_NAME = "ratelimit"

_LARGEST_MESSAGE_BYTES = 4 * 1024 * 1024
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def register(limits: DescriptorLimits) -> Callable[[Any], None]:
    """Adds the service to a server or a table of methods, as generated code does.

    Messages stay bytes up to `DescriptorLimits`, which knows most of them by heart.
    """

    async def should_rate_limit(request: bytes, context: object) -> bytes:
        del context
        return await limits.answer(request)

    handler = grpc.unary_unary_rpc_method_handler(
        should_rate_limit, request_deserializer=bytes, response_serializer=bytes
    )
    handlers: Mapping[str, Any] = {"ShouldRateLimit": handler}

    def add(server: Any) -> None:
        server.add_registered_method_handlers(SERVICE, handlers)

    return add


@asynccontextmanager
async def open_envoy_server(
    host: Host, settings: Envoy, limits: DescriptorLimits, healthy: Callable[[], bool]
) -> AsyncIterator["EnvoyHealth"]:
    """Serves Envoy's service, health and reflection alone, where Envoy is told to look for envoyproxy/ratelimit."""
    table = MethodTable({SHOULD_RATE_LIMIT: limits.answer_all})
    register(limits)(table)
    server = Server(
        max_message_bytes=_LARGEST_MESSAGE_BYTES,
        max_age_seconds=settings.max_connection_age_seconds,
        grace_seconds=settings.max_connection_age_grace_seconds,
    )
    table.add_to(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    add_reflection(server, (SERVICE, health.SERVICE_NAME))
    told = EnvoyHealth(servicer, healthy)
    await told.refresh()
    host.health.on_change(told.changed)
    tls = (
        Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_authority).context()
        if settings.tls
        else None
    )
    if settings.grpc_socket:
        await server.listen_at(settings.grpc_socket, tls=tls)
    else:
        await server.listen(settings.grpc_host, settings.grpc_port, tls=tls, reuse_port=settings.reuse_ports)

    async def drain() -> None:
        await server.stop(host.settings.drain_seconds)

    host.on_drain("envoy", drain)
    try:
        yield told
    finally:
        await server.stop(None)


class EnvoyHealth:
    """What health answers for `ratelimit` and for the whole server."""

    def __init__(self, servicer: Any, healthy: Callable[[], bool]) -> None:
        self._servicer = servicer
        self._healthy = healthy

    async def refresh(self) -> None:
        """Tells those who watch how it is now."""
        for name in ("", HEALTH_NAME):
            await self._servicer.set(name, _SERVING if self._healthy() else _NOT_SERVING)

    async def changed(self, ready: bool) -> None:  # noqa: FBT001 - a listener of `Health`
        """Hears that readiness has changed."""
        del ready
        await self.refresh()
