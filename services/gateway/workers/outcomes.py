"""What a worker reports, on its way to the tasks service: outcomes until they are committed, progress now and then."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.clock import Clock
from chassis.errors import Invalid, MeshError, NotFound
from services.gateway.workers import frames
from services.gateway.workers.frames import Cancelled, Fail, Progress, ProtocolError, Result
from services.gateway.workers.holdings import Holdings, Key
from services.gateway.workers.outbox import Outbox
from services.gateway.workers.session import Finished, Session

_HURRY_SECONDS = 3.0
_PROGRESS_SECONDS = 0.5
_LOOK_SECONDS = 0.05
_STALE = 4409


class Outcomes:
    """One worker's reports.

    Args:
        changed: told whenever the worker holds less than before.
    """

    def __init__(
        self,
        tasks: "tasks_pb2_grpc.TaskServiceAsyncStub",
        session: Session,
        holdings: Holdings,
        outbox: Outbox,
        clock: Clock,
        *,
        changed: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._session = session
        self._holdings = holdings
        self._outbox = outbox
        self._clock = clock
        self._changed = changed
        self._progress: dict[Key, Progress] = {}
        self._hurry_until: float | None = None
        self._group: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """At the end what was reported already is still committed, within seconds."""
        async with asyncio.TaskGroup() as self._group:
            try:
                yield
            finally:
                self._hurry_until = self._clock.monotonic() + _HURRY_SECONDS

    async def end(self, said: Result | Fail | Cancelled) -> None:
        """The worker has ended an attempt. Raises ProtocolError for one that it does not hold and has not ended."""
        holding = self._holdings.of_task(said.task_id)
        key = said.task_id, said.attempt or (holding.key[1] if holding else 0)
        if holding is None or holding.key != key:
            await self._answer_for_past(key, of=said.type)
        elif not holding.settling and self._group is not None:
            holding.settling, holding.accept_by = True, None
            self._progress.pop(key, None)
            self._group.create_task(self._settle(key, said))

    def check_held(self, key: Key) -> bool:
        """Whether the worker holds an attempt; if it did once it is told that it does not any more.

        Raises ProtocolError (``STALE_ATTEMPT``) for one that it never held.
        """
        if self._holdings.find(key) is not None:
            return True
        if self._holdings.was_stored(key) is None:
            raise ProtocolError("STALE_ATTEMPT", f"{key[0]} at attempt {key[1]} is not this worker's", close=_STALE)
        return False

    def progress(self, said: Progress) -> None:
        """How far the worker is; the latest word counts."""
        key = said.task_id, said.attempt
        if self.check_held(key):
            self._progress[key] = said

    async def tell_progress(self) -> None:
        """For ever: tells the latest of each attempt, twice a second."""
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            latest, self._progress = self._progress, {}
            await asyncio.gather(*(self._tell(key, said) for key, said in latest.items()))

    async def _tell(self, key: Key, said: Progress) -> None:
        request = tasks_pb2.ProgressRequest(
            task_id=said.task_id,
            attempt=said.attempt,
            progress=said.progress,
            message=said.message,
            partial=b"" if said.partial is None else orjson.dumps(said.partial),
        )
        if not await self._session.progress(request) and self._holdings.find(key) is not None:
            self.lose({key})

    def lose(self, keys: set[Key]) -> None:
        """The worker does not hold these any more."""
        for key in keys:
            self._holdings.release(key, stored=False)
        if keys:
            self._outbox.put(frames.encode("lease_lost", attempts=frames.attempts(sorted(keys))))
            self._changed()

    async def wait_settled(self) -> None:
        """Waits for the outcomes that are on their way, a few seconds at most."""
        until = self._clock.monotonic() + _HURRY_SECONDS
        while len(self._holdings) > len(self._holdings.idle_keys):
            if self._clock.monotonic() > until:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _settle(self, key: Key, said: Result | Fail | Cancelled) -> None:
        of = said.type
        try:
            finished = await self._session.finish(_outcome(key, said), hurried=self._is_hurried)
        except Invalid as error:
            problem = frames.Problem(code=error.code, message=error.message)
            said = Fail(type="fail", task_id=key[0], attempt=key[1], error=problem, retryable=False)
            finished = await self._session.finish(_outcome(key, said), hurried=self._is_hurried)
        if finished is Finished.OPEN:
            return
        stored = finished is Finished.STORED
        self._holdings.release(key, stored=stored)
        if stored:
            self._outbox.put(_acknowledged(key, of))
        else:
            self._outbox.put(frames.encode("lease_lost", attempts=frames.attempts([key])))
        self._changed()

    def _is_hurried(self) -> bool:
        return self._hurry_until is not None and self._clock.monotonic() > self._hurry_until

    async def _answer_for_past(self, key: Key, *, of: str) -> None:
        """A worker says again what it has not heard the answer to. Raises ProtocolError (``STALE_ATTEMPT``)."""
        stored = self._holdings.was_stored(key)
        if stored:
            self._outbox.put(_acknowledged(key, of))
        elif stored is False or await self._is_over(key):
            self._outbox.put(frames.encode("lease_lost", attempts=frames.attempts([key])))
        else:
            self.check_held(key)

    async def _is_over(self, key: Key) -> bool:
        """Whether the attempt has been and is not any more, whatever has become of its task since. It may have been
        this worker's, by another gateway or long ago.

        Nobody knows any more who held it, so to speak of it is no fault, and there is nothing to acknowledge.
        """
        try:
            task = (await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=key[0]))).task
        except MeshError as error:
            # Nobody can be blamed for what cannot be looked up.
            return not isinstance(error, NotFound)
        return 0 < key[1] < task.attempt or (key[1] == task.attempt > 0 and task.state != tasks_pb2.STATE_RUNNING)


def _acknowledged(key: Key, of: str) -> str:
    return frames.encode("acknowledged", of=of, task_id=key[0], attempt=key[1])


def _outcome(key: Key, said: Result | Fail | Cancelled) -> tasks_pb2.Outcome:
    outcome = tasks_pb2.Outcome(task_id=key[0], attempt=key[1])
    match said:
        case Result():
            outcome.result = orjson.dumps(said.result)
        case Fail():
            outcome.failure.error.code, outcome.failure.error.message = said.error.code, said.error.message
            outcome.failure.retryable = said.retryable
            outcome.failure.retry_after_ms = round(said.retry_after_seconds * 1000)
        case Cancelled():
            outcome.cancelled = True
    return outcome
