"""Asks a process whether it is ready, in the words of its own protocol."""

import asyncio
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_SECONDS = 1.0


async def grpc_ready(address: str) -> bool:
    """Whether the gRPC health service at host:port says that `readiness` is SERVING."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="readiness"), timeout=_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def http_ready(url: str) -> bool:
    """Whether a GET is answered with 200."""
    return await asyncio.to_thread(_get, url)


def _get(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - always http
            return bool(answer.status == 200)  # noqa: PLR2004 - a well-known number
    except (OSError, urllib.error.HTTPError):
        return False
