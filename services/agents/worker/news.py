"""News of tasks on the bus, each heard and then acknowledged; hearing one twice changes nothing."""

import asyncio

from google.protobuf.message import DecodeError
from mesh.tasks.v1 import events_pb2

from chassis import telemetry
from chassis.errors import Invalid, MeshError
from chassis.logging import get_logger
from chassis.messaging.consumer import Delivery
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
        """One message's events, each for itself. A message that cannot be read is parked; an event that cannot be read,
        or not be applied now, is left to the repair.
        """
        try:
            changed = events_pb2.TasksChanged.FromString(delivery.message.body)
        except DecodeError as error:
            # Parks it.
            raise Invalid(private=f"no task events: {error}") from error
        await asyncio.gather(*map(self._hear, changed.changes))
        await delivery.ack()

    async def _hear(self, changed: events_pb2.TaskChanged) -> None:
        try:
            news = events.to_news(changed)
            if news is not None:
                async with self._limit:
                    await self._engine.hear(news)
        except MeshError as error:
            telemetry.NEWS_LEFT.labels(error.code).inc()
            log.warning("News of a task is left to the repair", task_id=changed.task_id, error=str(error))
        except Exception:
            # Whatever is wrong with one event, or with us when we hear it, the others of its message take effect.
            telemetry.NEWS_LEFT.labels("FAULT").inc()
            log.exception("News of a task could not be used", task_id=changed.task_id, sequence=changed.sequence)
