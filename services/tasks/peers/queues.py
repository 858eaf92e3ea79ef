"""The port over RabbitMQ's queues, declared from here too, so that pointers have a place before any worker exists."""

from collections.abc import Sequence
from typing import Literal

from chassis.errors import Unavailable
from chassis.logging import get_logger
from chassis.messaging.connection import Broker
from chassis.messaging.topology import work_queue, work_queues
from services.tasks.model.states import Priority

log = get_logger(__name__)


class BrokerQueues:
    """`ports.WorkQueues` over the broker."""

    def __init__(self, broker: Broker, queue_type: Literal["classic", "quorum"]) -> None:
        self._broker = broker
        self._queue_type: Literal["classic", "quorum"] = queue_type
        self._groups: set[str] = set()

    async def declare(self, groups: Sequence[str]) -> None:
        """See `ports.WorkQueues`."""
        fresh = set(groups) - self._groups
        if not fresh:
            return
        try:
            await self._broker.ensure(
                *(spec for group in sorted(fresh) for spec in work_queues(group, self._queue_type))
            )
        except Unavailable as error:
            # Asked for again with the next figures, and expected by the broker's next connection.
            log.debug("Queues cannot be declared now", groups=sorted(fresh), reason=str(error))
        else:
            self._groups |= fresh

    async def count_ready(self, group: str, priority: Priority) -> int:
        """See `ports.WorkQueues`."""
        queue = work_queue(group, priority.queue_class, self._queue_type)
        ready = await self._broker.ready_count(queue.name)
        if ready is None:
            await self._broker.ensure(queue)
        return ready or 0

    async def find_empty(self, queues: Sequence[tuple[str, Priority]]) -> list[tuple[str, Priority]]:
        """See `ports.WorkQueues`."""
        empty = []
        for group, priority in queues:
            if not await self.count_ready(group, priority):
                empty.append((group, priority))
        return empty
