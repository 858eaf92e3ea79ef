"""One worker session after the other: opened, kept alive, and given up when the tasks service says that it is lost.

It knows what the session holds only through its holder; what a lost session did is the owner's to stop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import MeshError
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from worker.lease import TIMEOUT_SECONDS, Holder, Lease, close_session

log = get_logger(__name__)

_MAX_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What the owner of the sessions does when one begins and ends.

    Attributes:
        opened: a session stands; work may be claimed.
        lost: the session is presumed dead; stop all its work.
    """

    opened: Callable[[str], None]
    lost: Callable[[str], None]


class Sessions:
    """The session of this process, if it has one."""

    def __init__(
        self,
        tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub",
        announcement: tasks_pb2.OpenSessionRequest,
        holder: Holder,
        on: Callbacks,
    ) -> None:
        self._tasks = tasks
        self._announcement = announcement
        self._holder = holder
        self._on = on
        self._lease: Lease | None = None
        self._lease_seconds = 0
        self._asked_at = 0.0
        self._closing = False
        self.current: str | None = None

    async def run(self) -> None:
        """Keeps a session for ever. An outage of the tasks service ends neither it nor its work: only its word does."""
        while not self._closing:
            opened = await self._open()
            if opened is None:
                return
            self.current = opened.session_id
            self._lease = Lease(self._tasks, opened.session_id, self._holder)
            self._lease.prolonged_at, self._lease_seconds = self._asked_at, opened.lease_seconds
            log.info("A worker session is open", session=opened.session_id)
            self._on.opened(opened.session_id)
            await self._lease.keep(opened.heartbeat_seconds)
            self.current = None
            self._on.lost(opened.session_id)

    @property
    def is_held(self) -> bool:
        """Its lease is not over for all we know. A process that stood still may not have heard yet that it is."""
        if self._lease is None:
            return False
        return asyncio.get_running_loop().time() - self._lease.prolonged_at < self._lease_seconds

    def suspect(self) -> None:
        """A call said that the session is lost: asks at once instead of with the next heartbeat."""
        if self._lease is not None:
            self._lease.suspect()

    async def drain(self) -> None:
        """Stops claims for the session on the other side. No new session is opened from here on."""
        self._closing = True
        await self._close(drain=True)

    async def close(self) -> None:
        """Ends the session; whatever it still holds is queued again."""
        await self._close(drain=False)

    async def _open(self) -> tasks_pb2.OpenSessionResponse | None:
        failures = 0
        while not self._closing:
            try:
                self._asked_at = asyncio.get_running_loop().time()
                return await self._tasks.OpenSession(self._announcement, timeout=TIMEOUT_SECONDS)
            except MeshError as error:
                # Said once, then now and then: a process may wait for hours.
                if failures % 30 == 0:
                    log.warning("No worker session yet", error=str(error))
                await asyncio.sleep(backoff_seconds(failures, first=0.2, most=_MAX_PAUSE_SECONDS))
                failures += 1
        return None

    async def _close(self, *, drain: bool) -> None:
        if self.current is not None:
            await close_session(self._tasks, self.current, drain=drain)
