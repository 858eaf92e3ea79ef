"""One task followed from a sequence number to its end: from the records first, then from the bus, without gaps.

The records are the truth. The bus saves asking them: they are read again where it left something out, and now and then.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from mesh.tasks.v1 import tasks_pb2

from chassis.clock import Clock
from chassis.errors import MeshError
from chassis.logging import get_logger
from services.gateway.live.frames import Frame
from services.gateway.live.hub import Hub
from services.gateway.live.mailbox import Mailbox
from services.gateway.live.tasks import Tasks

log = get_logger(__name__)

_LOOK_UP_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 15.0


class Trail:
    """Follows tasks.

    Args:
        hub: the feed of tasks.
        records: what the tasks service knows of them.
    """

    def __init__(self, hub: Hub, records: Tasks, clock: Clock) -> None:
        self._hub = hub
        self._records = records
        self._clock = clock

    async def follow(
        self, task: tasks_pb2.Task, since: int, still_allowed: Callable[[], Awaitable[bool]]
    ) -> AsyncGenerator[Frame | None]:
        """The frames after `since`, to the last one; None now and then, so that a connection that is silent is known
        to stand, and first of all.

        Ends early when the process drains or `still_allowed` says no. Raises MeshError before the first None alone, and
        Exhausted where a user follows too much.
        """
        with self._hub.joined(task.owner_id, task.id) as mailbox:
            await self._hub.listening()
            past: list[Frame] | None = await self._after(task, since)
            yield None
            said_at = self._clock.monotonic()
            while await still_allowed() and mailbox.ending is None:
                for frame in past or []:
                    yield frame
                    since, said_at = frame.sequence, self._clock.monotonic()
                    if frame.last:
                        return
                if past == [] and await self._is_over(task.id):
                    return
                past = None
                news = await _next(mailbox, since)
                if news is not None and news.sequence == since + 1:
                    past = [news]
                elif news is not None:
                    past = await self._try(task, since)
                elif self._clock.monotonic() - said_at >= _KEEP_ALIVE_SECONDS:
                    yield None
                    said_at = self._clock.monotonic()
                    past = await self._try(task, since)

    async def _after(self, task: tasks_pb2.Task, since: int) -> list[Frame]:
        return [frame async for frame in self._records.after(task, since)]

    async def _try(self, task: tasks_pb2.Task, since: int) -> list[Frame] | None:
        """None when the records cannot be read now: they are tried again with the next news or the next look."""
        try:
            return await self._after(task, since)
        except MeshError as error:
            log.warning("The records of a task cannot be read now", task_id=task.id, error=str(error))
            await asyncio.sleep(_LOOK_UP_SECONDS)
            return None

    async def _is_over(self, task_id: str) -> bool:
        """Whether nothing will follow: somebody asked for what comes after the end."""
        try:
            return await self._records.has_ended(task_id)
        except MeshError as error:
            log.warning("A task cannot be looked at now", task_id=task_id, error=str(error))
            return False


async def _next(mailbox: Mailbox, since: int) -> Frame | None:
    """The next frame that is news; None when there is none for a while."""
    try:
        async with asyncio.timeout(_LOOK_UP_SECONDS):
            while (frame := await mailbox.take()).sequence <= since:
                continue
            return frame
    except TimeoutError:
        return None
