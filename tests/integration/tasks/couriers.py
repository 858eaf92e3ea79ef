"""Couriers over a real database and a real way out to the machine itself, for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from chassis.clock import SystemClock
from services.tasks.model.tries import Bounds, Policy, Share
from services.tasks.operations.deliveries import Couriers
from services.tasks.peers.addresses import Guard, Resolver
from services.tasks.peers.endpoints import open_endpoints
from services.tasks.ports import DeliveryStore
from tests.integration.tasks.core import Core

BOUNDS = Bounds(
    policy=Policy(schedule_seconds=(0.0, 0.05, 0.05)),
    timeout_seconds=60.0,
    failing_seconds=3600.0,
    most_under_way=16,
    share=Share(per_webhook=4, per_owner=8),
    most_waiting=100,
    retained_days=14,
)
HERE = Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")], allow_http=True)


@asynccontextmanager
async def couriers(
    core: Core, store: DeliveryStore | None = None, guard: Guard = HERE, **changes: Any
) -> AsyncIterator[Couriers]:
    """The couriers of one process, running."""
    bounds = replace(BOUNDS, **changes)
    clock = SystemClock()
    async with open_endpoints(guard, Resolver(guard), clock, timeout_seconds=bounds.timeout_seconds) as post:
        opened = Couriers(store or core.store, post, clock=clock, bounds=bounds)
        running = [asyncio.ensure_future(opened.run()), asyncio.ensure_future(_wake(opened))]
        try:
            yield opened
        finally:
            for one in running:
                one.cancel()
            for ended in await asyncio.gather(*running, return_exceptions=True):
                if not isinstance(ended, asyncio.CancelledError):
                    pytest.fail(f"a loop died: {ended!r}")


async def _wake(opened: Couriers) -> None:
    """As the commits of a whole process do."""
    while True:
        opened.awake.set()
        await asyncio.sleep(0.05)
