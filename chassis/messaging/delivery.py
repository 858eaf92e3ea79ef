"""A delivery and its one settlement, and what becomes of deliveries whose handler fails.

Every delivery ends in exactly one of three ways: acknowledged, back in its queue, or in the parking queue. A settlement
on a channel that is gone does nothing: the broker has put the message back already.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage

from chassis import telemetry
from chassis.errors import Invalid, Unavailable
from chassis.logging import get_logger
from chassis.messaging.link import BROKER_ERRORS
from chassis.messaging.message import Message
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import PARKING
from chassis.messaging.wire import from_properties, parked

log = get_logger(__name__)

_MOST_FAILURES = 10
_FAILURES_REMEMBERED = 10_000
_FIRST_PAUSE_SECONDS = 0.25
_MOST_PAUSE_SECONDS = 5.0


class Unsettled:
    """What a channel has delivered and nobody has settled yet, by delivery tag."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._tags: set[int] = set()

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, tag: int) -> None:
        """Counts what was delivered."""
        self._tags.add(tag)

    async def ack(self, tag: int) -> None:
        """The broker forgets it."""
        await self._say(self._channel.basic_ack(tag, wait=False), {tag})

    async def ack_all(self, tags: Collection[int]) -> None:
        """The same for many: one frame speaks for all that come before the first that has still to be settled."""
        bound = min(self._tags.difference(tags), default=None)
        together = {tag for tag in tags if bound is None or tag < bound}
        if together:
            await self._say(self._channel.basic_ack(max(together), multiple=True, wait=False), together)
        for tag in tags:
            if tag not in together:
                await self.ack(tag)

    async def requeue(self, tag: int) -> None:
        """The broker puts it back."""
        await self._say(self._channel.basic_nack(tag, requeue=True, wait=False), {tag})

    async def _say(self, settlement: Awaitable[object], tags: set[int]) -> None:
        try:
            await settlement
        except BROKER_ERRORS as error:
            log.debug("A settlement came too late", error=str(error))
        finally:
            # Not before it is said: a frame for several must not speak for these too.
            self._tags -= tags


class Delivery:
    """One message as it was delivered. The first settlement counts; later ones do nothing.

    Attributes:
        message: what was published.
        queue: the name in the queue's spec.
        redelivered: whether it may have been delivered before.
        channel: what else its channel has delivered.
        tag: its number there.
    """

    __slots__ = ("_publisher", "_received", "_settled", "channel", "message", "queue", "redelivered", "tag")

    def __init__(
        self, message: Message, queue: str, received: DeliveredMessage, publisher: Publisher, channel: Unsettled
    ) -> None:
        self.message = message
        self.queue = queue
        self.redelivered = bool(getattr(received.delivery, "redelivered", False))
        self.channel = channel
        self.tag = received.delivery_tag or 0
        self._received = received
        self._publisher = publisher
        self._settled = False

    @property
    def settled(self) -> bool:
        """Whether it was acknowledged, rejected or parked."""
        return self._settled

    async def ack(self) -> None:
        """Done with it: the broker forgets it."""
        if self.settle("acked"):
            await self.channel.ack(self.tag)

    async def reject(self) -> None:
        """Puts it back into its queue, for whoever takes it next."""
        if self.settle("rejected"):
            await self.channel.requeue(self.tag)

    async def park(self, reason: str) -> None:
        """Moves it to the parking queue, where an operator finds it with the reason; rejects it if that fails."""
        if not self._settled:
            moved = await _park(self._publisher, self._received, self.queue, reason)
            await (self.ack() if moved else self.reject())

    def settle(self, outcome: str) -> bool:
        """Counts a settlement that the caller has still to say. False: it was settled before."""
        if self._settled:
            return False
        self._settled = True
        telemetry.MESSAGES_CONSUMED.labels(self.queue, outcome).inc()
        return True


async def ack_all(deliveries: Sequence[Delivery]) -> None:
    """Done with all of these."""
    tags: dict[Unsettled, list[int]] = {}
    for delivery in deliveries:
        if delivery.settle("acked"):
            tags.setdefault(delivery.channel, []).append(delivery.tag)
    for channel, mine in tags.items():
        await channel.ack_all(mine)


# May return nothing to wait for, when all it does is to take the delivery in.
Handle = Callable[[Delivery], Awaitable[None] | None]


class Handling:
    """Runs the handler over deliveries and settles for it when it fails."""

    def __init__(self, publisher: Publisher, handle: Handle) -> None:
        self._publisher = publisher
        self._handle = handle
        # The channel's own tasks are cancelled when it ends, and a handler must not be: it may be in mid-transaction.
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: OrderedDict[str, int] = OrderedDict()

    def begin(self, queue: str, received: DeliveredMessage, channel: Unsettled) -> None:
        """Starts on one delivery of a channel."""
        try:
            message = _message(received)
        except Invalid as error:
            self._spawn(self._park_unread(queue, received, channel, error))
            return
        delivery = Delivery(message, queue, received, self._publisher, channel)
        try:
            handled = self._handle(delivery)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, its delivery is settled
            self._spawn(self._give_back(delivery, error))
            return
        if handled is None:
            self._failures.pop(message.id, None)
        else:
            self._spawn(self._wait(delivery, handled))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout_seconds: float) -> None:
        """Waits for what runs, and cancels what does not end in time."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_seconds)
        for task in late:
            task.cancel()
        if late:
            log.warning("Handlers did not end in time", handlers=len(late))
            await asyncio.wait(late)

    async def _wait(self, delivery: Delivery, handled: Awaitable[None]) -> None:
        try:
            await handled
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, its delivery is settled
            await self._give_back(delivery, error)
        else:
            self._failures.pop(delivery.message.id, None)

    async def _give_back(self, delivery: Delivery, error: Exception) -> None:
        message = delivery.message
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, Invalid):
            log.warning("A message cannot be understood", queue=delivery.queue, message=message.id, error=told)
            await delivery.park(told)
            return
        failures = self._count(message.id)
        log.warning("A handler failed", queue=delivery.queue, message=message.id, failures=failures, exc_info=error)
        if failures >= _MOST_FAILURES and not isinstance(error, Unavailable):
            await delivery.park(told)
            return
        await asyncio.sleep(min(_FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1), _MOST_PAUSE_SECONDS))
        await delivery.reject()

    def _count(self, message_id: str) -> int:
        count = self._failures.pop(message_id, 0) + 1
        self._failures[message_id] = count
        if len(self._failures) > _FAILURES_REMEMBERED:
            self._failures.popitem(last=False)
        return count

    async def _park_unread(self, queue: str, received: DeliveredMessage, channel: Unsettled, error: Invalid) -> None:
        told = f"{error.message}: {error.private}"
        log.warning("A message cannot be understood", queue=queue, error=told)
        moved = await _park(self._publisher, received, queue, told)
        if not moved:
            await asyncio.sleep(_MOST_PAUSE_SECONDS)
        telemetry.MESSAGES_CONSUMED.labels(queue, "parked" if moved else "rejected").inc()
        tag = received.delivery_tag or 0
        await (channel.ack(tag) if moved else channel.requeue(tag))


def _message(received: DeliveredMessage) -> Message:
    return from_properties(
        received.exchange or "", received.routing_key or "", received.header.properties, bytes(received.body)
    )


async def _park(publisher: Publisher, received: DeliveredMessage, queue: str, reason: str) -> bool:
    why = parked(received.header.properties, reason=reason, queue=queue, routing_key=received.routing_key or "")
    try:
        return await publisher.publish_raw("", PARKING, bytes(received.body), why)
    except Unavailable as error:
        log.debug("A message cannot be parked now", queue=queue, error=str(error))
        return False
