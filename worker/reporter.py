"""Outcomes on their way to the tasks service: sent in batches, and sent again until they are acknowledged.

An outcome is idempotent by its attempt, so sending it twice is safe; it is kept in memory through any outage of the
service. What this module does not decide is whether an outcome counts: a stale one has no effect and is dropped.
"""

import asyncio
from itertools import islice

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import Invalid, MeshError, NotFound
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from worker.attempts import Key, key_of
from worker.handler import failure

log = get_logger(__name__)

_MAX_OUTCOMES = 200
# Well below the 16 MiB that a gRPC message may have here.
_MAX_BATCH_BYTES = 4 * 1024 * 1024
_TIMEOUT_SECONDS = 10.0
_MAX_PAUSE_SECONDS = 2.0
# A second batch is sent while one is on its way when so many outcomes wait.
_AT_ONCE = 2
_WORTH_ANOTHER = 50


class Reporter:
    """Outcomes that are not acknowledged yet, by the session under which they were reached."""

    def __init__(self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub") -> None:
        self._tasks = tasks
        self._pending: dict[Key, tuple[str, tasks_pb2.Outcome]] = {}
        # Those of the pending that are on their way now.
        self._sent: set[Key] = set()
        self._changed = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    @property
    def keys(self) -> set[Key]:
        """The attempts whose outcome is on its way."""
        return set(self._pending)

    def put(self, session_id: str, outcome: tasks_pb2.Outcome) -> None:
        """Takes over an outcome."""
        self._pending[key_of(outcome)] = (session_id, outcome)
        self._emptied.clear()
        self._changed.set()

    async def wait_empty(self) -> None:
        """Waits until everything is acknowledged."""
        await self._emptied.wait()

    async def run(self) -> None:
        """Sends for ever. What arrives while batches are on their way is the next batch."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._send_on())

    async def _send_on(self) -> None:
        failures = 0
        while True:
            if len(self._pending) - len(self._sent) < (_WORTH_ANOTHER if self._sent else 1):
                self._changed.clear()
                await self._changed.wait()
            elif await self._send():
                failures = 0
            else:
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MAX_PAUSE_SECONDS))
                failures += 1

    async def _send(self) -> bool:
        session_id, batch = self._next_batch()
        keys = set(map(key_of, batch))
        self._sent |= keys
        try:
            return await self._try(session_id, batch)
        finally:
            self._sent -= keys
            # Another may be worth it now, or the only one that there is.
            self._changed.set()
            if not self._pending:
                self._emptied.set()

    async def _try(self, session_id: str, batch: list[tasks_pb2.Outcome]) -> bool:
        try:
            await self._finish(session_id, batch)
        except NotFound:
            log.warning("Outcomes of a lost session are dropped", session=session_id, outcomes=len(batch))
        except Invalid as error:
            if len(batch) > 1:
                return await self._send_apart(session_id, batch)
            return await self._send_refusal(session_id, batch[0], error)
        except MeshError as error:
            log.warning("Outcomes wait for the tasks service", outcomes=len(self._pending), error=str(error))
            return False
        self._forget(batch)
        return True

    async def _finish(self, session_id: str, batch: list[tasks_pb2.Outcome]) -> None:
        request = tasks_pb2.FinishRequest(session_id=session_id, outcomes=batch)
        response = await self._tasks.Finish(request, timeout=_TIMEOUT_SECONDS)
        for pointer in response.stale:
            log.info("A stale outcome had no effect", task_id=pointer.task_id, attempt=pointer.attempt)

    async def _send_apart(self, session_id: str, batch: list[tasks_pb2.Outcome]) -> bool:
        """One of them is refused and must not hold up the others."""
        for outcome in batch:
            try:
                await self._finish(session_id, [outcome])
            except Invalid as error:
                if not await self._send_refusal(session_id, outcome, error):
                    return False
                continue
            except MeshError as error:
                log.warning("An outcome waits for the tasks service", task_id=outcome.task_id, error=str(error))
                return False
            self._forget([outcome])
        return True

    async def _send_refusal(self, session_id: str, outcome: tasks_pb2.Outcome, error: Invalid) -> bool:
        """The service does not take this result, as when it is too large: the attempt has failed for good."""
        log.error("An outcome was refused", task_id=outcome.task_id, attempt=outcome.attempt, error=str(error))
        said = failure(error.code, error.message, retryable=False)
        refusal = tasks_pb2.Outcome(task_id=outcome.task_id, attempt=outcome.attempt, failure=said)
        try:
            await self._finish(session_id, [refusal])
        except (Invalid, NotFound) as again:
            log.error("A refused outcome is dropped", task_id=outcome.task_id, error=str(again))  # noqa: TRY400 - no stack helps
        except MeshError as away:
            log.warning("A refused outcome waits for the tasks service", task_id=outcome.task_id, error=str(away))
            return False
        self._forget([outcome])
        return True

    def _next_batch(self) -> tuple[str, list[tasks_pb2.Outcome]]:
        waiting = [one for key, one in self._pending.items() if key not in self._sent]
        session_id = waiting[0][0]
        batch: list[tasks_pb2.Outcome] = []
        size = 0
        mine = (outcome for session, outcome in waiting if session == session_id)
        for outcome in islice(mine, _MAX_OUTCOMES):
            size += outcome.ByteSize()
            if batch and size > _MAX_BATCH_BYTES:
                break
            batch.append(outcome)
        return session_id, batch

    def _forget(self, batch: list[tasks_pb2.Outcome]) -> None:
        for outcome in batch:
            self._pending.pop(key_of(outcome), None)
