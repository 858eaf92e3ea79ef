"""Submitting tasks under an Idempotency-Key, as every dialect does it.

The tasks service remembers keys, the tasks they made and what was answered first; this remembers which are
under way here.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a submission. `at` is when it was answered first, `estimated_at` when it should have ended.

    `scheduled` tells that it waits for a time or for other tasks before it is queued.
    """

    task_id: str
    at: datetime
    estimated_at: datetime
    estimated_seconds: float
    queue_position: int
    scheduled: bool
    duplicate: bool


class Submissions:
    """The way of every submission to the tasks service."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub") -> None:
        self._tasks = tasks
        self._under_way: set[tuple[str, str]] = set()

    async def submit(self, request: tasks_pb2.SubmitRequest) -> Submitted:
        """Submits. Raises Conflict: ``IDEMPOTENCY_IN_FLIGHT`` while the first request with the key is under way,
        ``IDEMPOTENCY_MISMATCH`` when the key was used for another request; and what the tasks service raises.
        """
        if not request.idempotency_key:
            return _submitted(await self._tasks.Submit(request))
        key = request.owner_id, request.idempotency_key
        if key in self._under_way:
            raise Conflict("A request with this Idempotency-Key is under way", code="IDEMPOTENCY_IN_FLIGHT")
        self._under_way.add(key)
        try:
            return _submitted(await self._tasks.Submit(request))
        finally:
            self._under_way.discard(key)

    async def submit_many(self, requests: list[tasks_pb2.SubmitRequest]) -> list[Submitted]:
        """Submits all or none. Raises what the tasks service raises, with the number of the request as ``index``."""
        answer = await self._tasks.SubmitMany(tasks_pb2.SubmitManyRequest(requests=requests))
        return [_submitted(each) for each in answer.responses]


def _submitted(answer: tasks_pb2.SubmitResponse) -> Submitted:
    task = answer.task
    created = task.created_at.ToDatetime(tzinfo=UTC)
    return Submitted(
        task_id=task.id,
        at=created,
        estimated_at=answer.estimated_at.ToDatetime(tzinfo=UTC),
        estimated_seconds=answer.estimated_seconds,
        queue_position=answer.queue_position,
        scheduled=(task.HasField("run_at") and task.run_at.ToDatetime(tzinfo=UTC) > created) or bool(task.run_after),
        duplicate=answer.duplicate,
    )
