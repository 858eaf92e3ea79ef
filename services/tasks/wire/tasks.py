"""Tasks, submissions and events as callers see them."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from collections.abc import Sequence

from mesh.tasks.v1 import tasks_pb2

from chassis.errors import Invalid
from services.tasks.model.states import Priority, State
from services.tasks.model.task import Draft, Event, Receipt, Task
from services.tasks.wire.times import set_time, time_from, to_time

# Of a task, where it has them.
_SELDOM = ("result", "progress", "traceparent", "labels", "partial", "unique_key", "schedule_id")
_MOMENTS = ("started_at", "finished_at", "run_at", "deadline_at")


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
        run_at=time_from(request.run_at, "run_at") if request.HasField("run_at") else None,
        deadline_at=time_from(request.deadline_at, "deadline_at") if request.HasField("deadline_at") else None,
        traceparent=traceparent,
        idempotency_key=request.idempotency_key,
        run_after=tuple(request.run_after),
        join=request.join,
        unique_key=request.unique_key,
        name=request.name,
    )


def to_submitted(receipt: Receipt) -> tasks_pb2.SubmitResponse:
    response = tasks_pb2.SubmitResponse()
    accepted = receipt.accepted
    _fill(response.task, accepted.task)
    response.queue_position = receipt.queue_position
    response.estimated_seconds = receipt.estimated_seconds
    set_time(response.estimated_at, receipt.estimated_at)
    if accepted.replayed:
        response.replayed = True
    if accepted.duplicate:
        response.duplicate = True
    return response


def to_task(task: Task) -> tasks_pb2.Task:
    message = tasks_pb2.Task()
    _fill(message, task)
    return message


def _fill(message: tasks_pb2.Task, task: Task) -> None:
    """Field by field, in place: to make messages of arguments and copy them costs twice as much."""
    message.id = task.task_id
    message.kind = task.kind
    message.owner_id = task.owner_id
    message.priority = to_priority(task.priority)
    message.state = _state(task.state)
    message.attempt = task.attempt
    message.max_attempts = task.max_attempts
    message.payload = task.payload
    message.timeout_seconds = task.timeout_seconds
    set_time(message.created_at, task.created_at)
    # What most tasks do not have costs as much to set as what they have.
    for name in _SELDOM:
        if value := getattr(task, name):
            setattr(message, name, value)
    if task.run_after:
        message.run_after.extend(task.run_after)
        message.join = tasks_pb2.JOIN_ANY if task.join_any else tasks_pb2.JOIN_ALL
    if task.error is not None:
        message.error.CopyFrom(tasks_pb2.TaskError(code=task.error.code, message=task.error.message))
    for name in _MOMENTS:
        if (at := getattr(task, name)) is not None:
            set_time(getattr(message, name), at)


def to_event(event: Event) -> tasks_pb2.Event:
    return tasks_pb2.Event(
        sequence=event.sequence, type=event.type, attempt=event.attempt, at=to_time(event.at), data=event.data
    )


def states_from(states: Sequence[int]) -> list[State]:
    """Raises Invalid for a state that is none."""
    known = {int(state) for state in State}
    if unknown := [state for state in states if state not in known]:
        raise Invalid(f"states: Unknown state {unknown[0]}", details={"field": "states"})
    return [State(state) for state in states]


def to_priority(priority: Priority) -> tasks_pb2.Priority.ValueType:
    # The numbers are the same on both sides; a test holds them together.
    return tasks_pb2.Priority.ValueType(priority)


def _state(state: State) -> tasks_pb2.State.ValueType:
    return tasks_pb2.State.ValueType(state)
