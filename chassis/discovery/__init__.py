"""Where the instances of a service are: one interface, several backends, chosen by MESH_DISCOVERY.

The last non-empty answer is kept for ever: what is really gone is noticed by those who call it (ejection), and a
lookup that fails must never empty a set that works.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from chassis.config import Discovery
from chassis.discovery.consul import ConsulLookup, Registration, open_client
from chassis.discovery.directory import Address, Directory, LiveDirectory, WatchedDirectory
from chassis.discovery.dns import DnsLookup
from chassis.discovery.static import StaticDirectory
from chassis.endless import end, endless
from chassis.lifecycle import Host

__all__ = ("Address", "Directory", "LiveDirectory", "StaticDirectory", "open_discovery", "register")


@asynccontextmanager
async def open_discovery(host: Host, settings: Discovery) -> AsyncIterator[LiveDirectory]:
    """Lookups for as long as it is open. Never fails because the backend is away."""
    del host
    if settings.backend == "static":
        yield StaticDirectory(settings)
        return
    async with AsyncExitStack() as stack:
        if settings.backend == "consul":
            follow = ConsulLookup(await stack.enter_async_context(open_client(settings))).follow
        else:
            follow = DnsLookup(settings).follow
        directory = WatchedDirectory(settings, follow)
        stack.push_async_callback(directory.close)
        yield directory


@asynccontextmanager
async def register(
    host: Host, settings: Discovery, service: str, address: str, port: int, *, http_check: str = ""
) -> AsyncIterator[None]:
    """Announces this process for as long as it is open; it disappears first of all when the host drains.

    Only Consul is told: Kubernetes knows its pods, and static addresses are settings.

    Args:
        address: where others reach this process, and the agent its check.
        http_check: URL that answers 200 when this process is ready; its gRPC health check when empty.
    """
    if settings.backend != "consul":
        yield
        return
    async with open_client(settings) as client:
        registration = Registration(client, service=service, address=address, port=port, http_check=http_check)
        holding = asyncio.create_task(endless(f"registration:{service}", registration.hold))
        host.on_drain("discovery", registration.leave)
        try:
            yield
        finally:
            await end([holding])
            await registration.leave()
