"""Submitting tasks under an Idempotency-Key, as every dialect does it.

The tasks service remembers keys, the tasks they made and what was answered first; this remembers which are
under way here. What a task's kind asks for (a scope, tokens of a minute) is asked for here, whichever way it came.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import Conflict
from services.gateway.apis.special_kinds import check_kind, tokens_of
from services.gateway.edge.asgi import Scope
from services.gateway.edge.context import current, require_user


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a submission. `at` is when it was answered first, `estimated_at` when it should have ended.

    `scheduled` tells that it waits for a time or for other tasks before it is queued. `made`: by this submission, and
    by none before it.
    """

    task_id: str
    at: datetime
    estimated_at: datetime
    estimated_seconds: float
    queue_position: int
    scheduled: bool
    duplicate: bool
    made: bool


class Submissions:
    """The way of every submission to the tasks service.

    Args:
        lane: for single submissions, which are many and small; `tasks` for the rest.
    """

    def __init__(
        self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", lane: "tasks_pb2_grpc.TaskServiceAsyncStub"
    ) -> None:
        self._tasks = tasks
        self._lane = lane
        self._under_way: set[tuple[str, str]] = set()

    async def submit(self, scope: Scope, request: tasks_pb2.SubmitRequest) -> Submitted:
        """Submits for the caller that `scope` names.

        Raises Conflict: ``IDEMPOTENCY_IN_FLIGHT`` while the first request with the key is under way,
        ``IDEMPOTENCY_MISMATCH`` when the key was used for another request; Forbidden and Exhausted as the route of its
        kind does; and what the tasks service raises.
        """
        costs = await _reserve(scope, [request])
        submitted = await self._once(request)
        _spend(scope, sum(costs) if submitted.made else 0)
        return submitted

    async def submit_many(self, scope: Scope, requests: list[tasks_pb2.SubmitRequest]) -> list[Submitted]:
        """Submits all or none. Raises as `submit`; of the tasks service with the number of the request as ``index``."""
        costs = await _reserve(scope, requests)
        answer = await self._tasks.SubmitMany(tasks_pb2.SubmitManyRequest(requests=requests))
        submitted = [_submitted(each) for each in answer.responses]
        _spend(scope, sum(cost for cost, each in zip(costs, submitted, strict=True) if each.made))
        return submitted

    async def requeue(self, scope: Scope, request: tasks_pb2.RequeueTaskRequest) -> tasks_pb2.Task:
        """Puts a task back, which costs what it cost when it was submitted. Raises as `submit`, and NotFound."""
        asked = tasks_pb2.GetTaskRequest(id=request.id, owner_id=request.owner_id)
        costs = await _reserve(scope, [(await self._tasks.GetTask(asked)).task])
        answer = await self._tasks.RequeueTask(request)
        _spend(scope, sum(costs) if answer.requeued else 0)
        return answer.task

    async def _once(self, request: tasks_pb2.SubmitRequest) -> Submitted:
        if not request.idempotency_key:
            return _submitted(await self._lane.Submit(request))
        key = request.owner_id, request.idempotency_key
        if key in self._under_way:
            raise Conflict("A request with this Idempotency-Key is under way", code="IDEMPOTENCY_IN_FLIGHT")
        self._under_way.add(key)
        try:
            return _submitted(await self._lane.Submit(request))
        finally:
            self._under_way.discard(key)


async def _reserve(scope: Scope, tasks: Sequence[tasks_pb2.SubmitRequest | tasks_pb2.Task]) -> list[int]:
    """The tokens that each may use, reserved of the caller's."""
    principal = require_user(scope)
    for task in tasks:
        check_kind(task.kind, principal)
    costs = [tokens_of(task) for task in tasks]
    if (tokens := current(scope).tokens) is not None:
        await tokens.need(sum(costs))
    return costs


def _spend(scope: Scope, tokens: int) -> None:
    """Nobody tells later what a task has used, so all that was reserved for it counts as used."""
    if (reservation := current(scope).tokens) is not None:
        reservation.used = tokens


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
        made=not (answer.duplicate or answer.replayed),
    )
