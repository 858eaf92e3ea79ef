"""Model ↔ contract: pure functions, one a message. What the bus is told is worded here too."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.tasks.v1 import events_pb2, tasks_pb2

from chassis.errors import Invalid
from chassis.messaging.message import EVENTS, WORK, Message
from services.tasks.model.figures import Depth, Rate
from services.tasks.model.states import EventType, Priority, State
from services.tasks.model.task import Draft, Event, Kind, Notice, Receipt, Task, TaskError
from services.tasks.model.work import (
    ClaimBatch,
    Claimed,
    Failure,
    Held,
    Opening,
    Outcome,
    OutcomeBatch,
    Pointer,
    Worker,
)

_SOURCE = "tasks"
_CHANGED = events_pb2.TaskChanged.DESCRIPTOR.full_name
_POINTER = tasks_pb2.Pointer.DESCRIPTOR.full_name
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000_SECONDS = 253_402_300_800


def draft_from(request: tasks_pb2.SubmitRequest, traceparent: str) -> Draft:
    """Raises Invalid for times that are none."""
    return Draft(
        owner_id=request.owner_id,
        kind=request.kind,
        priority=request.priority,
        payload=request.payload,
        labels=request.labels,
        max_attempts=request.max_attempts,
        timeout_seconds=request.timeout_seconds,
        run_at=_time_from(request.run_at, "run_at") if request.HasField("run_at") else None,
        deadline_at=_time_from(request.deadline_at, "deadline_at") if request.HasField("deadline_at") else None,
        traceparent=traceparent,
        idempotency_key=request.idempotency_key,
    )


def to_submitted(receipt: Receipt) -> tasks_pb2.SubmitResponse:
    return tasks_pb2.SubmitResponse(
        task=to_task(receipt.accepted.task),
        replayed=receipt.accepted.replayed,
        queue_position=receipt.queue_position,
        estimated_seconds=receipt.estimated_seconds,
    )


def to_task(task: Task) -> tasks_pb2.Task:
    message = tasks_pb2.Task(
        id=task.task_id,
        kind=task.kind,
        owner_id=task.owner_id,
        priority=_priority(task.priority),
        state=_state(task.state),
        attempt=task.attempt,
        max_attempts=task.max_attempts,
        payload=task.payload,
        result=task.result,
        progress=task.progress,
        created_at=_to_time(task.created_at),
        traceparent=task.traceparent,
        labels=task.labels,
    )
    if task.error is not None:
        message.error.CopyFrom(tasks_pb2.TaskError(code=task.error.code, message=task.error.message))
    for field, at in (
        (message.started_at, task.started_at),
        (message.finished_at, task.finished_at),
        (message.run_at, task.run_at),
    ):
        if at is not None:
            field.CopyFrom(_to_time(at))
    return message


def to_event(event: Event) -> tasks_pb2.Event:
    return tasks_pb2.Event(
        sequence=event.sequence, type=event.type, attempt=event.attempt, at=_to_time(event.at), data=event.data
    )


def states_from(states: Sequence[int]) -> list[State]:
    """Raises Invalid for a state that is none."""
    known = {int(state) for state in State}
    if unknown := [state for state in states if state not in known]:
        raise Invalid(f"states: Unknown state {unknown[0]}", details={"field": "states"})
    return [State(state) for state in states]


def to_summary(
    depths: Sequence[Depth], workers: Sequence[Worker], rates: Sequence[Rate], known_kinds: Sequence[str]
) -> tasks_pb2.GetSummaryResponse:
    return tasks_pb2.GetSummaryResponse(
        queues=[
            tasks_pb2.QueueSummary(group=d.group, priority=_priority(d.priority), queued=d.queued, running=d.running)
            for d in depths
        ],
        workers=[_to_worker(worker) for worker in workers],
        finished_per_second=sum(rate.ended_per_second for rate in rates),
        finished=sum(rate.ended for rate in rates),
        failed=sum(rate.failed for rate in rates),
        known_kinds=known_kinds,
    )


def _to_worker(worker: Worker) -> tasks_pb2.WorkerSummary:
    return tasks_pb2.WorkerSummary(
        session_id=worker.session_id,
        name=worker.name,
        host=worker.host,
        kinds=worker.kinds,
        slots=worker.slots,
        running=worker.running,
        finished=worker.finished,
        opened_at=_to_time(worker.opened_at),
        draining=worker.draining,
    )


def opening_from(request: tasks_pb2.OpenSessionRequest) -> Opening:
    return Opening(
        session_id="",
        worker_name=request.worker_name,
        host=request.host,
        slots=request.slots,
        kinds=tuple(
            Kind(
                kind=spec.kind,
                group=spec.group,
                max_attempts=spec.default_max_attempts,
                timeout_seconds=spec.default_timeout_seconds,
            )
            for spec in request.kinds
        ),
    )


def pointer_from(pointer: tasks_pb2.Pointer) -> Pointer:
    return Pointer(task_id=pointer.task_id, attempt=pointer.attempt)


def progress_pointer(request: tasks_pb2.ProgressRequest) -> Pointer:
    return Pointer(task_id=request.task_id, attempt=request.attempt)


def to_pointer(pointer: Pointer | Held) -> tasks_pb2.Pointer:
    return tasks_pb2.Pointer(task_id=pointer.task_id, attempt=pointer.attempt)


def claims_from(request: tasks_pb2.ClaimRequest) -> ClaimBatch:
    return ClaimBatch(session_id=request.session_id, pointers=tuple(map(pointer_from, request.pointers)))


def to_claimed(claimed: Claimed) -> tasks_pb2.Claimed:
    return tasks_pb2.Claimed(
        task_id=claimed.task_id,
        attempt=claimed.attempt,
        kind=claimed.kind,
        payload=claimed.payload,
        owner_id=claimed.owner_id,
        timeout_seconds=claimed.timeout_seconds,
        max_attempts=claimed.max_attempts,
        traceparent=claimed.traceparent,
        pointer_attempt=claimed.attempt - 1,
    )


def outcomes_from(request: tasks_pb2.FinishRequest) -> OutcomeBatch:
    return OutcomeBatch(session_id=request.session_id, outcomes=tuple(map(_outcome_from, request.outcomes)))


def _outcome_from(outcome: tasks_pb2.Outcome) -> Outcome:
    which = outcome.WhichOneof("outcome")
    if which == "result":
        return Outcome(task_id=outcome.task_id, attempt=outcome.attempt, result=outcome.result)
    if which == "failure":
        failure = Failure(
            error=TaskError(code=outcome.failure.error.code, message=outcome.failure.error.message),
            retryable=outcome.failure.retryable,
            retry_after_seconds=outcome.failure.retry_after_ms / 1000,
        )
        return Outcome(task_id=outcome.task_id, attempt=outcome.attempt, failure=failure)
    if which == "cancelled":
        return Outcome(task_id=outcome.task_id, attempt=outcome.attempt)
    raise Invalid("outcomes: An outcome without a result, a failure or a cancellation", details={"field": "outcomes"})


def messages_of(notice: Notice) -> list[Message]:
    """What the bus is told: the event, and a pointer when somebody is to do it."""
    messages = []
    if notice.asks_for_work:
        messages.append(_pointer_message(notice))
    if notice.type:
        messages.append(_changed_message(notice))
    return messages


def _pointer_message(notice: Notice) -> Message:
    return Message(
        exchange=WORK,
        routing_key=f"work.{notice.group}.p{notice.priority.queue_class}",
        type=_POINTER,
        body=tasks_pb2.Pointer(task_id=notice.task_id, attempt=notice.attempt).SerializeToString(),
        # With the moment: a pointer that replaces a lost one is another message, and no repetition.
        id=f"{notice.task_id}@{notice.attempt}/{int(notice.at.timestamp() * 1e6)}",
        time=notice.at,
        source=_SOURCE,
        subject=notice.task_id,
        traceparent=notice.traceparent,
    )


def _changed_message(notice: Notice) -> Message:
    changed = events_pb2.TaskChanged(
        task_id=notice.task_id,
        kind=notice.kind,
        owner_id=notice.owner_id,
        type=notice.type,
        sequence=notice.sequence,
        attempt=notice.attempt,
        at=_to_time(notice.at),
        data=notice.data,
        result=notice.result if notice.type == EventType.SUCCEEDED else b"",
        labels=notice.labels,
    )
    return Message(
        exchange=EVENTS,
        # The kind is in the key so that who waits for one kind of task need not read about all the others.
        routing_key=f"tasks.task.{notice.type}.{notice.kind}",
        type=_CHANGED,
        body=changed.SerializeToString(),
        id=f"{notice.task_id}#{notice.sequence}",
        time=notice.at,
        source=_SOURCE,
        subject=notice.task_id,
        sequence=notice.sequence,
        traceparent=notice.traceparent,
    )


def _priority(priority: Priority) -> tasks_pb2.Priority.ValueType:
    # The numbers are the same on both sides; a test holds them together.
    return tasks_pb2.Priority.ValueType(priority)


def _state(state: State) -> tasks_pb2.State.ValueType:
    return tasks_pb2.State.ValueType(state)


def _to_time(at: datetime) -> Timestamp:
    past = at - _EPOCH
    return Timestamp(seconds=past.days * 86_400 + past.seconds, nanos=past.microseconds * 1000)


def _time_from(at: Timestamp, field: str) -> datetime:
    if not (0 <= at.seconds < _YEAR_10000_SECONDS and 0 <= at.nanos < 10**9):
        raise Invalid(f"{field}: Not a time", details={"field": field})
    return _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
