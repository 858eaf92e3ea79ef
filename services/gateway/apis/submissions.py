"""Submitting tasks under an Idempotency-Key, as every dialect does it.

The tasks service remembers keys and the tasks they made; this remembers which are under way here and what was answered,
so that a repeated request gets the stored answer and not the task's present state.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.clock import Clock
from chassis.errors import Conflict

_MOST_ANSWERS = 20_000


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

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock
        self._under_way: set[tuple[str, str]] = set()
        self._answers: OrderedDict[tuple[str, str], Submitted] = OrderedDict()

    async def submit(self, request: tasks_pb2.SubmitRequest) -> Submitted:
        """Submits. Raises Conflict: ``IDEMPOTENCY_IN_FLIGHT`` while the first request with the key is under way,
        ``IDEMPOTENCY_MISMATCH`` when the key was used for another request; and what the tasks service raises.
        """
        if not request.idempotency_key:
            return self._submitted(await self._tasks.Submit(request))
        key = request.owner_id, request.idempotency_key
        if key in self._under_way:
            raise Conflict("A request with this Idempotency-Key is under way", code="IDEMPOTENCY_IN_FLIGHT")
        self._under_way.add(key)
        try:
            answer = await self._tasks.Submit(request)
        finally:
            self._under_way.discard(key)
        return self._remembered(key, answer)

    async def submit_many(self, requests: list[tasks_pb2.SubmitRequest]) -> list[Submitted]:
        """Submits all or none. Raises what the tasks service raises, with the number of the request as ``index``."""
        answer = await self._tasks.SubmitMany(tasks_pb2.SubmitManyRequest(requests=requests))
        return [self._submitted(each) for each in answer.responses]

    def _remembered(self, key: tuple[str, str], answer: tasks_pb2.SubmitResponse) -> Submitted:
        stored = self._answers.get(key)
        if answer.replayed and stored is not None and stored.task_id == answer.task.id:
            return stored
        submitted = self._submitted(answer)
        self._answers[key] = submitted
        self._answers.move_to_end(key)
        if len(self._answers) > _MOST_ANSWERS:
            self._answers.popitem(last=False)
        return submitted

    def _submitted(self, answer: tasks_pb2.SubmitResponse) -> Submitted:
        task = answer.task
        created = task.created_at.ToDatetime(tzinfo=UTC)
        run_at = task.run_at.ToDatetime(tzinfo=UTC) if task.HasField("run_at") else created
        return Submitted(
            task_id=task.id,
            at=created,
            # Its estimate begins when it may run.
            estimated_at=max(self._clock.now(), run_at) + timedelta(seconds=answer.estimated_seconds),
            estimated_seconds=answer.estimated_seconds,
            queue_position=answer.queue_position,
            scheduled=run_at > created or bool(task.run_after),
            duplicate=answer.duplicate,
        )
