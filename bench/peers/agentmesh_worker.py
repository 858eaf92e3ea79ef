"""A worker of this project, built as the built-in one is, for kinds that only a benchmark wants: ``noop`` tells when it
started, ``sleep`` waits for the ``seconds`` of its payload and writes down when it was cancelled.
"""

import asyncio
import os
import time
from pathlib import Path

from mesh.tasks.v1 import tasks_pb2_grpc

from chassis.lifecycle import Host, run
from chassis.messaging.connection import open_broker
from chassis.rpc.peer import open_peer
from services.tasks.worker.settings import Settings
from worker import Assignment, Kind, RabbitFeed, Runner

GROUP = "bench"
# Where `sleep` says what was cancelled: a line each, the task's id and the time in seconds since the epoch.
CANCELLED_FILE = "BENCH_CANCELLED_FILE"


async def _noop(_: Assignment) -> float:
    return time.time()


async def _sleep(assignment: Assignment) -> float:
    started = time.time()
    try:
        await asyncio.sleep(assignment.payload["seconds"])
    except asyncio.CancelledError:
        _write_down(assignment.task_id, time.time())
        raise
    return started


def _write_down(task_id: str, cancelled: float) -> None:
    with Path(os.environ[CANCELLED_FILE]).open("a", encoding="utf-8") as file:
        file.write(f"{task_id} {cancelled}\n")


async def build(settings: Settings, host: Host) -> None:
    """Opens everything, as the built-in worker does."""
    broker = await host.enter(open_broker(settings.rabbit, name=host.instance))
    tasks = await host.enter(open_peer(host, "tasks", settings.discovery))
    kinds = {name: Kind(handler=handler, max_attempts=3) for name, handler in (("noop", _noop), ("sleep", _sleep))}
    slots = settings.working.slots
    feed = RabbitFeed(broker, GROUP, slots, settings.rabbit.queue_type)
    runner = Runner(host, tasks_pb2_grpc.WorkerServiceStub(tasks), feed, name=host.instance, kinds=kinds, slots=slots)
    await host.enter(runner.open())


if __name__ == "__main__":
    run("bench-worker", Settings, build)
