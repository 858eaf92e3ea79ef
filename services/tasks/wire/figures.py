"""Figures as operators see them."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from mesh.tasks.v1 import tasks_pb2

from services.tasks.model.figures import Channel, GroupFigures, Overview
from services.tasks.model.work import Worker
from services.tasks.wire.tasks import to_priority
from services.tasks.wire.times import set_time, to_time


def to_summary(overview: Overview) -> tasks_pb2.GetSummaryResponse:
    groups = overview.groups
    return tasks_pb2.GetSummaryResponse(
        queues=[
            tasks_pb2.QueueSummary(group=d.group, priority=to_priority(d.priority), queued=d.queued, running=d.running)
            for d in overview.depths
        ],
        workers=map(_to_worker, overview.workers),
        finished_per_second=sum(group.rate.ended_per_second for group in groups),
        finished=sum(group.rate.ended for group in groups),
        failed=sum(group.rate.failed for group in groups),
        known_kinds=overview.known_kinds,
        groups=map(_to_group, groups),
        unpublished=overview.unpublished,
    )


def to_channel(channel: Channel) -> tasks_pb2.ChannelSummary:
    message = tasks_pb2.ChannelSummary(
        channel=channel.channel,
        waiting=channel.waiting,
        running=channel.running,
        response_seconds=channel.response_seconds,
        finished=channel.ended,
        failed=channel.failed,
    )
    set_time(message.last_finished_at, channel.last_at)
    return message


def _to_group(group: GroupFigures) -> tasks_pb2.GroupSummary:
    return tasks_pb2.GroupSummary(
        group=group.rate.group,
        waiting=group.waiting,
        limit=group.limit,
        running=group.running,
        slots=group.slots,
        finished_per_second=group.rate.ended_per_second,
        average_seconds=group.rate.mean_run_seconds,
        finished=group.rate.ended,
        failed=group.rate.failed,
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
        opened_at=to_time(worker.opened_at),
        draining=worker.draining,
        external=worker.external,
        last_heartbeat_at=to_time(worker.beat_at),
        average_seconds=worker.average_seconds,
        groups=worker.groups,
    )
