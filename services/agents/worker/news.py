"""News of tasks on the bus, each heard and then acknowledged; hearing one twice changes nothing."""

import json

from google.protobuf.message import DecodeError
from mesh.tasks.v1 import events_pb2

from chassis.errors import Invalid, MeshError
from chassis.logging import get_logger
from chassis.messaging.consumer import Delivery
from services.agents.operations.executions import Engine
from services.agents.wire import events

log = get_logger(__name__)


class Listener:
    """Hands what concerns a run to the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def handle(self, delivery: Delivery) -> None:
        """One event. What cannot be read is parked, what cannot be applied now is left to the repair."""
        try:
            news = events.to_news(events_pb2.TaskChanged.FromString(delivery.message.body))
        except (DecodeError, json.JSONDecodeError) as error:
            # Parks it.
            raise Invalid(private=f"not a task event: {error}") from error
        if news is not None:
            try:
                await self._engine.hear(news)
            except MeshError as error:
                log.warning("News of a task is left to the repair", task_id=news.task_id, error=str(error))
        await delivery.ack()
