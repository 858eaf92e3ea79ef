"""The hub on the bus: one exclusive queue a gateway, so that each hears of everything."""

from google.protobuf.message import DecodeError

from chassis.errors import Invalid
from chassis.lifecycle import Host
from chassis.messaging.connection import Broker
from chassis.messaging.consumer import Consumer, Delivery
from chassis.messaging.topology import events_queue
from services.gateway.live.hub import PATTERNS, Hub

_PREFETCH = 200


async def open_feed(host: Host, broker: Broker, hub: Hub) -> None:
    """Feeds a hub for the life of the process; sockets close when it drains."""

    async def handle(delivery: Delivery) -> None:
        try:
            hub.tell(delivery.message)
        except DecodeError as error:
            raise Invalid("An event cannot be read", private=f"{delivery.message.type}: {error}") from None
        await delivery.ack()

    queue = events_queue("gateway.live", PATTERNS, exclusive=True)

    def subscribed(_queue: str) -> None:
        hub.suspect()

    consumer = Consumer(broker, queue=queue, prefetch=_PREFETCH, handle=handle, on_subscribed=subscribed)
    await host.enter(consumer.open())
    host.spawn("live-metrics", hub.measure())
    host.spawn("live-order", hub.sweep())
    host.on_drain("live", hub.drain)
