"""The lease of one session, kept by heartbeats and by its stream until the tasks service says that it is lost.

What the session holds, and what its owner does when told, is known only through the callbacks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import MeshError, NotFound
from chassis.logging import get_logger
from worker.attempts import Key, key_of
from worker.watch import watch

log = get_logger(__name__)

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who works under the lease.

    Attributes:
        holds: the attempts held now.
        cancelled: the owner of this one's task wants no more of it.
        beaten: what was held when a heartbeat left, and what the session holds by the service's account.
    """

    holds: Callable[[], set[Key]]
    cancelled: Callable[[Key], None]
    beaten: Callable[[set[Key], set[Key]], Awaitable[None]]


class Lease:
    """The lease of one session of `holder`."""

    def __init__(self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", session_id: str, holder: Holder) -> None:
        self._tasks = tasks
        self._session_id = session_id
        self._holder = holder
        self._suspect = asyncio.Event()
        # When the last call that prolonged it was sent, by the loop's clock.
        self.prolonged_at = asyncio.get_running_loop().time()

    def suspect(self) -> None:
        """A call said that the session is lost: asks at once instead of with the next heartbeat."""
        self._suspect.set()

    async def keep(self, heartbeat_seconds: float) -> None:
        """Returns when the session is lost; an outage of the tasks service is none."""
        watching = asyncio.ensure_future(
            watch(self._tasks, self._session_id, self._holder.cancelled, self.suspect),
        )
        try:
            while await self._beat():
                try:
                    async with asyncio.timeout(heartbeat_seconds):
                        await self._suspect.wait()
                        self._suspect.clear()
                except TimeoutError:
                    continue
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _beat(self) -> bool:
        before, asked_at = self._holder.holds(), asyncio.get_running_loop().time()
        try:
            answer = await self._tasks.Heartbeat(
                tasks_pb2.HeartbeatRequest(session_id=self._session_id), timeout=TIMEOUT_SECONDS
            )
        except NotFound:
            log.warning("The worker session is lost", session=self._session_id)
            return False
        except MeshError as error:
            log.warning("A heartbeat was not answered", session=self._session_id, error=str(error))
            return True
        self.prolonged_at = asked_at
        cancelled = keys_of(answer.cancelled)
        for key in cancelled:
            self._holder.cancelled(key)
        await self._holder.beaten(before, cancelled | keys_of(answer.held))
        return True


async def close_session(
    tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", session_id: str, *, drain: bool = False
) -> None:
    """Stops claims for a session (drain), or ends it: whatever it still holds is queued again."""
    request = tasks_pb2.CloseSessionRequest(session_id=session_id, drain=drain)
    try:
        await tasks.CloseSession(request, timeout=TIMEOUT_SECONDS)
    except MeshError as error:
        # Its lease runs out by itself, and then the same happens to what it holds.
        log.warning("The worker session could not be closed", session=session_id, error=str(error))


async def hand_back(tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", session_id: str, keys: set[Key]) -> None:
    """Gives attempts back unfinished; where that fails the lease's end does the same, later."""
    pointers = [tasks_pb2.Pointer(task_id=task_id, attempt=attempt) for task_id, attempt in sorted(keys)]
    request = tasks_pb2.HandBackRequest(session_id=session_id, attempts=pointers)
    try:
        await tasks.HandBack(request, timeout=TIMEOUT_SECONDS)
    except MeshError as error:
        log.warning("Attempts could not be handed back", attempts=len(keys), error=str(error))


def keys_of(pointers: Iterable[tasks_pb2.Pointer]) -> set[Key]:
    """Attempts by their keys."""
    return {key_of(pointer) for pointer in pointers}
