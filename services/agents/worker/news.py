"""News of tasks on the bus, each heard and then acknowledged; hearing one twice changes nothing."""

import asyncio
import json

from google.protobuf.message import DecodeError
from mesh.tasks.v1 import events_pb2

from chassis.errors import Invalid, MeshError
from chassis.logging import get_logger
from chassis.messaging.consumer import Delivery
from services.agents.model.execution import News
from services.agents.operations.executions import Engine
from services.agents.wire import events

log = get_logger(__name__)


class Listener:
    """Hands what concerns a run to the engine.

    Args:
        at_once: how many events are heard at the same time, of all messages together.
    """

    def __init__(self, engine: Engine, at_once: int) -> None:
        self._engine = engine
        self._limit = asyncio.Semaphore(at_once)

    async def handle(self, delivery: Delivery) -> None:
        """One message's events. What cannot be read is parked, what cannot be applied now is left to the repair."""
        try:
            changed = events_pb2.TasksChanged.FromString(delivery.message.body)
            heard = [news for one in changed.changes if (news := events.to_news(one)) is not None]
        except (DecodeError, json.JSONDecodeError) as error:
            # Parks it.
            raise Invalid(private=f"not a task event: {error}") from error
        await asyncio.gather(*map(self._hear, heard))
        await delivery.ack()

    async def _hear(self, news: News) -> None:
        try:
            async with self._limit:
                await self._engine.hear(news)
        except MeshError as error:
            log.warning("News of a task is left to the repair", task_id=news.task_id, error=str(error))
