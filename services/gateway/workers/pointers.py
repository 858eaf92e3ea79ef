"""How the pointers of a worker's kinds come to it: from the queues of their groups, while it has a free slot."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from chassis.messaging.connection import Broker
from chassis.messaging.topology import QueueType
from worker.claims import Claims
from worker.feed import RabbitFeed

# Pointers that wait for a busy worker could be done by another one.
_STUCK_SECONDS = 1.0
_LOOK_SECONDS = 0.2


class Pointers:
    """The queues of some groups.

    Args:
        wanted: whether the worker may be given work now, a free slot included.
    """

    def __init__(self, broker: Broker, queue_type: QueueType, claims: Claims, wanted: Callable[[], bool]) -> None:
        self._broker = broker
        self._queue_type = queue_type
        self._claims = claims
        self._wanted = wanted

    async def run(self, groups: Sequence[str], slots: int) -> None:
        """For ever: takes pointers in, and leaves the queues while none of them could be claimed."""
        feeds = [RabbitFeed(self._broker, group, slots, self._queue_type) for group in sorted(set(groups))]
        while True:
            while not self._wanted():  # noqa: ASYNC110 - as below
                await asyncio.sleep(_LOOK_SECONDS)
            async with AsyncExitStack() as stack:
                for feed in feeds:
                    await stack.enter_async_context(feed.open(self._claims.take_in))
                # What it waits for has many causes and lasts long; a look now and then is cheap.
                while self._wanted() or self._claims.stuck_seconds < _STUCK_SECONDS:  # noqa: ASYNC110 - as said above
                    await asyncio.sleep(_LOOK_SECONDS)
            # Closing gave back what was not acknowledged; the copies here would only be claimed for nothing.
            self._claims.forget()
