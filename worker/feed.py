"""Where pointers come from: one queue for each priority class of a group, in RabbitMQ.

It knows nothing of claims: it hands deliveries on and leaves when told to, which gives back what was not acknowledged.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from chassis.messaging.connection import Broker
from chassis.messaging.consumer import Consumer, Delivery
from chassis.messaging.topology import QueueType, work_queues

Take = Callable[[Delivery, int], None]

# Where a queue moves fast a message has up to sixteen pointers; where it does not, one.
_MESSAGES = 4
_SLOTS_A_MESSAGE = 8


class Feed(Protocol):
    """A source of pointers for one group."""

    @property
    def group(self) -> str:
        """The group's name, as in "builtin"."""

    def open(self, take: Take) -> AbstractAsyncContextManager[None]:
        """Hands every delivery and its priority class to `take` for as long as it is open."""


class RabbitFeed:
    """The four work queues of a group.

    Of each class a few messages are held: enough that the next pointers are here while a claim is under way, and still
    little that waits in a busy process while another one is idle.
    """

    def __init__(self, broker: Broker, group: str, slots: int, queue_type: QueueType = "classic") -> None:
        self.group = group
        self._broker = broker
        self._queue_type = queue_type
        self._prefetch = min(slots, max(_MESSAGES, slots // _SLOTS_A_MESSAGE))

    @asynccontextmanager
    async def open(self, take: Take) -> AsyncIterator[None]:
        """Consumes until it is closed."""
        queues = work_queues(self.group, self._queue_type)
        classes = {queue.name: priority_class for priority_class, queue in enumerate(queues)}

        def handle(delivery: Delivery) -> None:
            take(delivery, classes[delivery.queue])

        async with Consumer(self._broker, queue=queues, prefetch=self._prefetch, handle=handle).open():
            yield
