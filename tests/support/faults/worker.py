"""A worker whose tasks leave marks in a file outside the mesh, so that what was done can be counted afterwards.

``python -m tests.support.faults.worker``; MARKS names the file.
"""

import asyncio
from pathlib import Path
from typing import Any

from mesh.tasks.v1 import tasks_pb2_grpc
from pydantic import Field

from chassis.config import Discovery, Group, Process, Rabbit, Telemetry
from chassis.lifecycle import Host, run
from chassis.messaging.connection import open_broker
from chassis.rpc.peer import open_peer
from tests.support.faults.marks import Marks
from worker import Kind, RabbitFeed, Retry, Runner
from worker.handler import Assignment, Reject

GROUP = "effects"
KINDS = ("effect.quick", "effect.slow", "effect.flaky", "effect.wrong")
_SLOTS = 32


class Settings(Group):
    """All settings of the worker."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    discovery: Discovery = Field(default_factory=Discovery)
    rabbit: Rabbit = Field(default_factory=Rabbit)
    marks: Path = Field(validation_alias="MARKS")


class Effects:
    """The handlers. Payload: ``seconds`` of work, ``failures`` attempts that fail first."""

    def __init__(self, marks: Marks, worker: str) -> None:
        self._marks = marks
        self._worker = worker

    async def handle(self, assignment: Assignment) -> dict[str, Any]:
        payload = assignment.payload
        self._marks.begun(assignment.task_id, assignment.attempt, self._worker)
        if assignment.kind == "effect.wrong":
            raise Reject("NEVER", "This task can never succeed")
        await asyncio.sleep(payload.get("seconds", 0))
        if assignment.attempt <= payload.get("failures", 0):
            raise Retry("Not yet", after_seconds=0.2)
        self._marks.done(assignment.task_id, assignment.attempt)
        return {"attempt": assignment.attempt}


async def build(settings: Settings, host: Host) -> None:
    broker = await host.enter(open_broker(settings.rabbit, name=host.instance))
    tasks = await host.enter(open_peer(host, "tasks", settings.discovery))
    handler = Effects(Marks(settings.marks), host.instance).handle
    kinds = {kind: Kind(handler=handler, max_attempts=10, timeout_seconds=60) for kind in KINDS}
    feed = RabbitFeed(broker, GROUP, _SLOTS, settings.rabbit.queue_type)
    stub = tasks_pb2_grpc.WorkerServiceStub(tasks)
    await host.enter(Runner(host, stub, feed, name=host.instance, kinds=kinds, slots=_SLOTS).open())


if __name__ == "__main__":
    run("effects", Settings, build)
