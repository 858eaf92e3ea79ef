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
        self._groups |= fresh
        self._broker.expect(*(spec for group in sorted(fresh) for spec in work_queues(group, self._queue_type)))
        try:
            await self._broker.ensure()
        except Unavailable as error:
            log.info("Queues will be declared when the broker is back", groups=sorted(fresh), reason=str(error))

    async def count_ready(self, group: str, priority: Priority) -> int:
        """See `ports.WorkQueues`."""
        ready = await self._broker.ready_count(work_queue(group, priority.queue_class, self._queue_type).name)
        if ready is None:
            await self._broker.ensure()
        return ready or 0

    async def find_empty(self, queues: Sequence[tuple[str, Priority]]) -> list[tuple[str, Priority]]:
        """See `ports.WorkQueues`."""
        empty = []
        for group, priority in queues:
            if not await self.count_ready(group, priority):
                empty.append((group, priority))
        return empty
