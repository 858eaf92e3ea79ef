"""A feed is listened to while somebody watches."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.gateway.live.executions import Executions
from services.gateway.live.feed import feed_while_watched
from services.gateway.live.hub import Hub
from tests.support.clock import FakeClock


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_is_listened_to_while_somebody_watches():
    """Then no longer; and again for the next one."""
    nobody: Any = None
    hub = Hub(FakeClock(), Executions(nobody))
    heard: list[str] = []

    @asynccontextmanager
    async def subscribe() -> AsyncIterator[None]:
        heard.append("begun")
        yield
        heard.append("ended")

    feeding = asyncio.ensure_future(feed_while_watched(hub, subscribe, linger_seconds=0))
    await settled()
    assert heard == []
    for times in (1, 2):
        with hub.joined("u1"):
            await settled()
            assert heard == ["begun", "ended"] * (times - 1) + ["begun"]
        async with asyncio.timeout(30):
            while len(heard) < 2 * times:
                await asyncio.sleep(0.001)
    feeding.cancel()
    await asyncio.wait([feeding])
    assert heard == ["begun", "ended"] * 2
