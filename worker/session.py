"""One worker session after the other: opened, kept alive, and given up when the tasks service says that it is lost.

It knows what the session holds only through the two callbacks; what a lost session did is theirs to stop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import MeshError, NotFound
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from worker.attempts import Key
from worker.watch import watch

log = get_logger(__name__)

_TIMEOUT_SECONDS = 5.0
_MAX_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What the owner of the sessions does when something happens to one.

    Attributes:
        opened: a session stands; work may be claimed.
        running: the attempts that run now.
        beaten: the answer to a heartbeat, with what ran when it left.
        stop: an attempt is to be stopped, because its owner wants that.
        lost: the session is presumed dead; stop all its work.
    """

    opened: Callable[[str], None]
    running: Callable[[], set[Key]]
    beaten: Callable[[set[Key], tasks_pb2.HeartbeatResponse], Awaitable[None]]
    stop: Callable[[Key], None]
    lost: Callable[[str], None]


class Sessions:
    """The session of this process, if it has one."""

    def __init__(
        self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", announcement: tasks_pb2.OpenSessionRequest, on: Callbacks
    ) -> None:
        self._tasks = tasks
        self._announcement = announcement
        self._on = on
        self._suspect = asyncio.Event()
        self._closing = False
        self.current: str | None = None

    async def run(self) -> None:
        """Keeps a session for ever. An outage of the tasks service ends neither it nor its work: only its word does."""
        while not self._closing:
            opened = await self._open()
            if opened is None:
                return
            self.current = opened.session_id
            self._suspect.clear()
            log.info("A worker session is open", session=opened.session_id)
            self._on.opened(opened.session_id)
            await self._keep_watched(opened)
            self.current = None
            self._on.lost(opened.session_id)

    def suspect(self) -> None:
        """A call said that the session is lost: asks at once instead of with the next heartbeat."""
        self._suspect.set()

    async def drain(self) -> None:
        """Stops claims for the session on the other side. No new session is opened from here on."""
        self._closing = True
        await self._close(drain=True)

    async def close(self) -> None:
        """Ends the session; whatever it still holds is queued again."""
        await self._close(drain=False)

    async def beat(self, session_id: str) -> bool:
        """Prolongs the lease once. False when the session is lost."""
        before = self._on.running()
        try:
            response = await self._tasks.Heartbeat(
                tasks_pb2.HeartbeatRequest(session_id=session_id), timeout=_TIMEOUT_SECONDS
            )
        except NotFound:
            log.warning("The worker session is lost", session=session_id)
            return False
        except MeshError as error:
            log.warning("A heartbeat was not answered", session=session_id, error=str(error))
            return True
        await self._on.beaten(before, response)
        return True

    async def _open(self) -> tasks_pb2.OpenSessionResponse | None:
        failures = 0
        while not self._closing:
            try:
                return await self._tasks.OpenSession(self._announcement, timeout=_TIMEOUT_SECONDS)
            except MeshError as error:
                # Said once, then now and then: a process may wait for hours.
                if failures % 30 == 0:
                    log.warning("No worker session yet", error=str(error))
                await asyncio.sleep(backoff_seconds(failures, first=0.2, most=_MAX_PAUSE_SECONDS))
                failures += 1
        return None

    async def _keep_watched(self, opened: tasks_pb2.OpenSessionResponse) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(self._tasks, opened.session_id, self._on.stop, self.suspect))
            await self._keep(opened.session_id, opened.heartbeat_seconds)
            watching.cancel()

    async def _keep(self, session_id: str, heartbeat_seconds: float) -> None:
        while await self.beat(session_id):
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    await self._suspect.wait()
                    self._suspect.clear()
            except TimeoutError:
                continue

    async def _close(self, *, drain: bool) -> None:
        if self.current is None:
            return
        try:
            await self._tasks.CloseSession(
                tasks_pb2.CloseSessionRequest(session_id=self.current, drain=drain), timeout=_TIMEOUT_SECONDS
            )
        except MeshError as error:
            # Its lease runs out by itself, and then the same happens to what it holds.
            log.warning("The worker session could not be closed", session=self.current, error=str(error))
