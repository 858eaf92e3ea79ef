"""One worker's life at the tasks service: opened or resumed, kept alive, told of cancellations, and ended.

What the worker holds, and what it is told of all this, is its owner's affair.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import Invalid, MeshError, NotFound
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from services.gateway.workers.frames import ProtocolError
from services.gateway.workers.holdings import Key
from worker.lease import TIMEOUT_SECONDS, Holder, Lease, close_session, hand_back, keys_of

log = get_logger(__name__)

_MOST_PAUSE_SECONDS = 1.0


class Finished(Enum):
    """What became of a report. `STALE`: the attempt was ended otherwise before. `LOST`: the session is over, and what
    it held is somebody else's. `OPEN`: there was no more time to be answered.
    """

    STORED = auto()
    STALE = auto()
    LOST = auto()
    OPEN = auto()


class Session:
    """The session of one socket, if it has one now."""

    def __init__(self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", holder: Holder) -> None:
        self._tasks = tasks
        self._holder = holder
        self._lease: Lease | None = None
        self._keeping: asyncio.Future[None] | None = None
        self.id: str | None = None
        # All that it had.
        self.ids: set[str] = set()

    async def open(self, request: tasks_pb2.OpenSessionRequest) -> tasks_pb2.OpenSessionResponse:
        """Opens a session, however long the tasks service is away. Raises ProtocolError for what it refuses."""
        failures = 0
        while True:
            try:
                opened = await self._tasks.OpenSession(request, timeout=TIMEOUT_SECONDS)
            except Invalid as error:
                raise ProtocolError("INVALID_REGISTRATION", error.message) from None
            except MeshError as error:
                log.info("No session for a worker yet", worker=request.worker_name, error=str(error))
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                failures += 1
            else:
                self.id = opened.session_id
                self.ids.add(opened.session_id)
                self._lease = Lease(self._tasks, opened.session_id, self._holder)
                return opened

    def suspect(self) -> None:
        """A call said that the session is lost: asks at once instead of with the next heartbeat."""
        if self._lease is not None:
            self._lease.suspect()

    def begin(self, heartbeat_seconds: float) -> None:
        """Keeps the open session from now on; `kept` waits for its end."""
        if self._lease is not None:
            self._keeping = asyncio.ensure_future(self._keep(self._lease, heartbeat_seconds))

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

    async def _keep(self, lease: Lease, heartbeat_seconds: float) -> None:
        await lease.keep(heartbeat_seconds)
        self.id = None

    async def held(self) -> set[Key] | None:
        """What a resumed session holds, however long the tasks service is away. None when it is lost after all."""
        failures = 0
        while True:
            try:
                request = tasks_pb2.HeartbeatRequest(session_id=self.id or "")
                answer = await self._tasks.Heartbeat(request, timeout=TIMEOUT_SECONDS)
            except NotFound:
                self.id = None
                return None
            except MeshError as error:
                log.info("A resumed session is not known yet", session=self.id, error=str(error))
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                failures += 1
            else:
                return keys_of(answer.held) | keys_of(answer.cancelled)

    async def finish(self, outcome: tasks_pb2.Outcome, *, hurried: Callable[[], bool]) -> Finished:
        """Reports how an attempt ended, until it is answered or `hurried` says that there is no more time. Raises
        Invalid.
        """
        session_id, failures = self.id, 0
        while session_id is not None and session_id == self.id:
            request = tasks_pb2.FinishRequest(session_id=session_id, outcomes=[outcome])
            try:
                answer = await self._tasks.Finish(request, timeout=TIMEOUT_SECONDS)
            except NotFound:
                return Finished.LOST
            except Invalid:
                raise
            except MeshError as error:
                log.warning("A worker's outcome waits for the tasks service", task_id=outcome.task_id, error=str(error))
                if hurried():
                    return Finished.OPEN
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                failures += 1
            else:
                return Finished.STALE if answer.stale else Finished.STORED
        return Finished.LOST

    async def progress(self, request: tasks_pb2.ProgressRequest) -> bool:
        """Reports progress, if it can be now. False when the attempt is not the session's any more."""
        request.session_id = self.id or ""
        try:
            answer = await self._tasks.Progress(request, timeout=TIMEOUT_SECONDS)
        except MeshError as error:
            log.debug("A worker's progress was not delivered", task_id=request.task_id, error=str(error))
            return True
        return not answer.stale

    async def hand_back(self, keys: set[Key]) -> None:
        """Gives attempts back unfinished; where that fails the lease's end does the same, later."""
        if keys and self.id is not None:
            await hand_back(self._tasks, self.id, keys)

    async def close(self, *, drain: bool = False) -> None:
        """Stops its claims (drain), or ends it."""
        if self.id is not None:
            await close_session(self._tasks, self.id, drain=drain)
