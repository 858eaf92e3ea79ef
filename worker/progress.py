"""How far one attempt is, told to the tasks service at most once a second.

Reports are advice: one that cannot be delivered is left out. The answer can say that the attempt is not ours any more.
"""

from collections.abc import Callable

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.clock import Clock
from chassis.errors import MeshError
from chassis.logging import get_logger
from worker.attempts import Key, key_of

log = get_logger(__name__)

_EVERY_SECONDS = 1.0
_TIMEOUT_SECONDS = 2.0


class Progress:
    """The reports of one attempt. `fenced` is called when it turns out to be another worker's."""

    def __init__(
        self,
        tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub",
        clock: Clock,
        session_id: str,
        claimed: tasks_pb2.Claimed,
        fenced: Callable[[Key], None],
    ) -> None:
        self._tasks = tasks
        self._clock = clock
        self._session_id = session_id
        self._claimed = claimed
        self._fenced = fenced
        self._next_at = float("-inf")

    async def report(self, fraction: float, message: str) -> None:
        """Sends `fraction`, bounded to 0…1, unless the last report is less than a second old."""
        now = self._clock.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + _EVERY_SECONDS
        request = tasks_pb2.ProgressRequest(
            session_id=self._session_id,
            task_id=self._claimed.task_id,
            attempt=self._claimed.attempt,
            progress=min(1.0, max(0.0, fraction)),
            message=message,
        )
        try:
            response = await self._tasks.Progress(request, timeout=_TIMEOUT_SECONDS)
        except MeshError as error:
            log.debug("A progress report was not delivered", task_id=self._claimed.task_id, error=str(error))
            return
        if response.stale:
            self._fenced(key_of(self._claimed))
