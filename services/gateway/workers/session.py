"""One worker's life at the tasks service: opened or resumed, kept alive, told of cancellations, and ended.

What the worker holds, and what it is told of all this, is its owner's affair.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import Invalid, MeshError, NotFound
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from services.gateway.workers.frames import ProtocolError
from services.gateway.workers.holdings import Key
from worker.watch import watch

log = get_logger(__name__)

_TIMEOUT_SECONDS = 5.0
_MOST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What the owner does when the tasks service says something.

    Attributes:
        holds: the attempts held now.
        cancelled: the owner of this one's task wants no more of it.
        beaten: what was held when a heartbeat left, and what the session holds by the service's account.
    """

    holds: Callable[[], set[Key]]
    cancelled: Callable[[Key], None]
    beaten: Callable[[set[Key], set[Key]], Awaitable[None]]


class Session:
    """The session of one socket, if it has one now."""

    def __init__(self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", on: Callbacks) -> None:
        self._tasks = tasks
        self._on = on
        self._suspect = asyncio.Event()
        self._keeping: asyncio.Future[None] | None = None
        self.id: str | None = None

    async def open(self, request: tasks_pb2.OpenSessionRequest) -> tasks_pb2.OpenSessionResponse:
        """Opens a session, however long the tasks service is away. Raises ProtocolError for what it refuses."""
        failures = 0
        while True:
            try:
                opened = await self._tasks.OpenSession(request, timeout=_TIMEOUT_SECONDS)
            except Invalid as error:
                raise ProtocolError("INVALID_REGISTRATION", error.message) from None
            except MeshError as error:
                log.info("No session for a worker yet", worker=request.worker_name, error=str(error))
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                failures += 1
            else:
                self.id = opened.session_id
                self._suspect.clear()
                return opened

    def suspect(self) -> None:
        """A call said that the session is lost: asks at once instead of with the next heartbeat."""
        self._suspect.set()

    def begin(self, heartbeat_seconds: float) -> None:
        """Keeps the session from now on; `kept` waits for its end."""
        session_id = self.id or ""
        self._keeping = asyncio.ensure_future(self._keep(session_id, heartbeat_seconds))

    async def kept(self) -> None:
        """Returns when the session is lost: what it held is somebody else's."""
        if self._keeping is not None:
            await asyncio.shield(self._keeping)

    async def let_go(self, *, linger_seconds: float, until: "asyncio.Future[Any]") -> None:
        """Keeps it a little longer, or until something happens, and then no more: the end of its stream shortens the
        lease, unless somebody watches the session by another stream.
        """
        if self._keeping is None:
            return
        await asyncio.wait({self._keeping, until}, timeout=linger_seconds, return_when=asyncio.FIRST_COMPLETED)
        self._keeping.cancel()
        await asyncio.wait({self._keeping})

    async def _keep(self, session_id: str, heartbeat_seconds: float) -> None:
        watching = asyncio.ensure_future(watch(self._tasks, session_id, self._on.cancelled, self.suspect))
        try:
            await self._beat_on(session_id, heartbeat_seconds)
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _beat_on(self, session_id: str, heartbeat_seconds: float) -> None:
        while await self._beat(session_id):
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    await self._suspect.wait()
                    self._suspect.clear()
            except TimeoutError:
                continue
        self.id = None

    async def _beat(self, session_id: str) -> bool:
        before = self._on.holds()
        try:
            request = tasks_pb2.HeartbeatRequest(session_id=session_id)
            answer = await self._tasks.Heartbeat(request, timeout=_TIMEOUT_SECONDS)
        except NotFound:
            return False
        except MeshError as error:
            log.warning("A heartbeat of a worker was not answered", session=session_id, error=str(error))
            return True
        cancelled = _keys(answer.cancelled)
        await self._on.beaten(before, cancelled | _keys(answer.held))
        for key in cancelled:
            self._on.cancelled(key)
        return True

    async def held(self) -> set[Key] | None:
        """What a resumed session holds, however long the tasks service is away. None when it is lost after all."""
        failures = 0
        while True:
            try:
                request = tasks_pb2.HeartbeatRequest(session_id=self.id or "")
                answer = await self._tasks.Heartbeat(request, timeout=_TIMEOUT_SECONDS)
            except NotFound:
                self.id = None
                return None
            except MeshError as error:
                log.info("A resumed session is not known yet", session=self.id, error=str(error))
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                failures += 1
            else:
                return _keys(answer.held) | _keys(answer.cancelled)

    async def finish(self, outcome: tasks_pb2.Outcome, *, hurried: Callable[[], bool]) -> bool | None:
        """Reports how an attempt ended, until it is answered. True: it is committed; False: it had no effect.

        None when `hurried` says that there is no more time. Raises Invalid.
        """
        session_id, failures = self.id, 0
        while session_id is not None and session_id == self.id:
            request = tasks_pb2.FinishRequest(session_id=session_id, outcomes=[outcome])
            try:
                answer = await self._tasks.Finish(request, timeout=_TIMEOUT_SECONDS)
            except NotFound:
                return False
            except Invalid:
                raise
            except MeshError as error:
                log.warning("A worker's outcome waits for the tasks service", task_id=outcome.task_id, error=str(error))
                if hurried():
                    return None
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                failures += 1
            else:
                return not answer.stale
        return False

    async def progress(self, request: tasks_pb2.ProgressRequest) -> bool:
        """Reports progress, if it can be now. False when the attempt is not the session's any more."""
        request.session_id = self.id or ""
        try:
            answer = await self._tasks.Progress(request, timeout=_TIMEOUT_SECONDS)
        except MeshError as error:
            log.debug("A worker's progress was not delivered", task_id=request.task_id, error=str(error))
            return True
        return not answer.stale

    async def hand_back(self, keys: set[Key]) -> None:
        """Gives attempts back unfinished; where that fails the lease's end does the same, later."""
        if not keys or self.id is None:
            return
        pointers = [tasks_pb2.Pointer(task_id=task_id, attempt=attempt) for task_id, attempt in sorted(keys)]
        try:
            request = tasks_pb2.HandBackRequest(session_id=self.id, attempts=pointers)
            await self._tasks.HandBack(request, timeout=_TIMEOUT_SECONDS)
        except MeshError as error:
            log.warning("A worker's attempts could not be handed back", attempts=len(keys), error=str(error))

    async def close(self, *, drain: bool = False) -> None:
        """Stops its claims (drain), or ends it."""
        if self.id is None:
            return
        try:
            request = tasks_pb2.CloseSessionRequest(session_id=self.id, drain=drain)
            await self._tasks.CloseSession(request, timeout=_TIMEOUT_SECONDS)
        except MeshError as error:
            # Its lease runs out by itself, and then the same happens to what it holds.
            log.warning("A worker's session could not be closed", session=self.id, error=str(error))


def _keys(pointers: Iterable[tasks_pb2.Pointer]) -> set[Key]:
    return {(pointer.task_id, pointer.attempt) for pointer in pointers}
