"""Schedules as their owners see them."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from mesh.tasks.v1 import tasks_pb2

from services.tasks.model.cron import Schedule, Wish
from services.tasks.wire.tasks import draft_from
from services.tasks.wire.times import set_time


def to_schedule(schedule: Schedule) -> tasks_pb2.Schedule:
    task = schedule.task
    message = tasks_pb2.Schedule(
        id=schedule.schedule_id,
        owner_id=schedule.owner_id,
        name=schedule.name,
        cron=schedule.times.cron,
        timezone=schedule.times.timezone,
        # The numbers are the same on both sides; a test holds them together.
        misfire=tasks_pb2.Misfire.ValueType(schedule.misfire),
        paused=schedule.paused,
        task=tasks_pb2.SubmitRequest(
            kind=task.kind,
            owner_id=schedule.owner_id,
            payload=task.payload,
            labels=task.labels,
            priority=tasks_pb2.Priority.ValueType(task.priority),
            max_attempts=task.max_attempts,
            timeout_seconds=task.timeout_seconds,
            unique_key=task.unique_key,
        ),
        last_task_id=schedule.last_task_id,
    )
    for field, at in (
        (message.created_at, schedule.created_at),
        (message.next_at, schedule.next_at),
        (message.last_at, schedule.last_at),
    ):
        set_time(field, at)
    return message


def creation_from(request: tasks_pb2.CreateScheduleRequest) -> Wish:
    return Wish(
        name=request.name,
        cron=request.cron,
        timezone=request.timezone,
        misfire=request.misfire,
        paused=request.paused,
        task=draft_from(request.task, "") if request.HasField("task") else None,
    )


def update_from(request: tasks_pb2.UpdateScheduleRequest) -> Wish:
    return Wish(
        name=request.name if request.HasField("name") else None,
        cron=request.cron if request.HasField("cron") else None,
        timezone=request.timezone if request.HasField("timezone") else None,
        misfire=request.misfire if request.HasField("misfire") else None,
        paused=request.paused if request.HasField("paused") else None,
        task=draft_from(request.task, "") if request.HasField("task") else None,
    )
