"""Where pointers come from: one queue for each priority class of a group, in RabbitMQ.

It knows nothing of claims: it hands deliveries on and leaves when told to, which gives back what was not acknowledged.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol

from chassis.messaging.connection import Broker
from chassis.messaging.consumer import Consumer, Delivery
from chassis.messaging.topology import work_queue

from worker.intake import WEIGHTS

Take = Callable[[Delivery, int], Awaitable[None]]


class Feed(Protocol):
    """A source of pointers for one group."""

    @property
    def group(self) -> str:
        """The group's name, as in "builtin"."""

    def open(self, take: Take) -> AbstractAsyncContextManager[None]:
        """Hands every delivery and its priority class to `take` for as long as it is open."""


class RabbitFeed:
    """The four work queues of a group.

    A class never holds more than half of the slots, so all together hold at most two pointers for each slot (one for
    each class when there is a single slot): little waits in a busy process while another one is idle.
    """

    def __init__(self, broker: Broker, group: str, slots: int) -> None:
        self.group = group
        self._broker = broker
        self._prefetch = max(1, slots // 2)

    @asynccontextmanager
    async def open(self, take: Take) -> AsyncIterator[None]:
        """Consumes until it is closed."""
        async with AsyncExitStack() as stack:
            for priority_class in range(len(WEIGHTS)):
                await stack.enter_async_context(self._consumer(priority_class, take).open())
            yield

    def _consumer(self, priority_class: int, take: Take) -> Consumer:
        async def handle(delivery: Delivery) -> None:
            await take(delivery, priority_class)

        queue = work_queue(self.group, priority_class)
        return Consumer(self._broker, queue=queue, prefetch=self._prefetch, handle=handle)
