"""The gRPC face of `DescriptorLimits`: Envoy's rate limit service, on the process's own port and on one of its own."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from chassis.lifecycle import Host
from chassis.rpc.methods import MethodTable
from services.ratelimit.config import Envoy
from services.ratelimit.descriptors.limits import DescriptorLimits

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
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
    table = MethodTable()
    register(limits)(table)
    server = grpc.aio.server(options=_options(settings))
    table.add_to(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    told = EnvoyHealth(servicer, healthy)
    await told.refresh()
    host.health.on_change(told.changed)
    if settings.tls:
        server.add_secure_port(settings.grpc_address, _credentials(settings))
    else:
        server.add_insecure_port(settings.grpc_address)
    await server.start()

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


def _options(settings: Envoy) -> list[tuple[str, Any]]:
    return [
        # Processes on one port split the calls between them; not in silence, but where it is asked for.
        ("grpc.so_reuseport", int(settings.reuse_ports)),
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE_BYTES),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace_seconds * 1000)),
        # Envoy pings to notice a stopped process; the default policy would take that for abuse.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _credentials(settings: Envoy) -> grpc.ServerCredentials:
    """The certificate, read again for every handshake after its files have changed."""
    paths = [Path(settings.tls_key), Path(settings.tls_certificate)]
    if settings.tls_client_authority:
        paths.append(Path(settings.tls_client_authority))
    seen = [_state(path) for path in paths]

    def load() -> Any:
        key, certificate, *authority = [path.read_bytes() for path in paths]
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority[0] if authority else None)

    def renew() -> Any:
        now = [_state(path) for path in paths]
        if now == seen:
            return None
        seen[:] = now
        return load()

    return grpc.dynamic_ssl_server_credentials(load(), renew, bool(settings.tls_client_authority))


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino
