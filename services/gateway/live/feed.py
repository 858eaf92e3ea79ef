"""The hubs on the bus: one exclusive queue a gateway and feed, so that each hears of everything it has to tell."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from chassis.errors import Invalid
from chassis.lifecycle import Host
from chassis.messaging.connection import Broker
from chassis.messaging.consumer import Consumer, Delivery
from chassis.messaging.topology import events_queue
from services.gateway.live import executions, tasks
from services.gateway.live.figures import Figures
from services.gateway.live.hub import Hub

_PREFETCH = 200
# A client that connects again right away finds its feed as it was.
_LINGER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeds:
    """The hubs of this process."""

    executions: Hub
    tasks: Hub


async def open_feeds(host: Host, broker: Broker, feeds: Feeds, health_score: Callable[[], float]) -> None:
    """Feeds the hubs for the life of the process; their sockets close when it drains."""
    await host.enter(_subscribed(broker, "gateway.live", executions.PATTERNS, feeds.executions))
    host.spawn("live-metrics", Figures(feeds.executions.rooms, host.clock, health_score).measure())
    host.spawn("live-order", feeds.executions.sweep())
    # Thousands of events a second, which nobody wants to hear of most of the time.
    listening = feed_while_watched(
        feeds.tasks, lambda: _subscribed(broker, "gateway.tasks", tasks.PATTERNS, feeds.tasks), _LINGER_SECONDS
    )
    host.spawn("live-tasks", listening)
    host.spawn("live-tasks-order", feeds.tasks.sweep())
    host.on_drain("live", feeds.executions.drain)
    host.on_drain("live-tasks", feeds.tasks.drain)


async def feed_while_watched(
    hub: Hub, subscribe: Callable[[], AbstractAsyncContextManager[None]], linger_seconds: float
) -> None:
    """For ever: listens while somebody watches, and a little longer."""
    while True:
        await hub.rooms.wait_occupied()
        async with subscribe():
            await _wait_deserted(hub, linger_seconds)
        hub.silence()


async def _wait_deserted(hub: Hub, linger_seconds: float) -> None:
    while True:
        await hub.rooms.wait_empty()
        try:
            async with asyncio.timeout(linger_seconds):
                await hub.rooms.wait_occupied()
        except TimeoutError:
            return


@asynccontextmanager
async def _subscribed(broker: Broker, name: str, patterns: Sequence[str], hub: Hub) -> AsyncIterator[None]:
    async def handle(delivery: Delivery) -> None:
        try:
            hub.tell(delivery.message)
        except DecodeError as error:
            raise Invalid("An event cannot be read", private=f"{delivery.message.type}: {error}") from None
        await delivery.ack()

    queue = events_queue(name, patterns, exclusive=True)
    consumer = Consumer(
        broker, queue=queue, prefetch=_PREFETCH, handle=handle, on_subscribed=lambda _queue: hub.suspect()
    )
    async with consumer.open():
        yield
