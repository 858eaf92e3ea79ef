"""Compares the mesh's own account with the ledger and with the marks that tasks left outside: what must hold of every
accepted task, and of all of them together.
"""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import grpc.aio
from mesh.tasks.v1 import tasks_pb2 as pb
from mesh.tasks.v1 import tasks_pb2_grpc

from tests.support.faults.endpoint import Endpoint
from tests.support.faults.ledger import Ledger
from tests.support.faults.marks import Marks
from tests.support.faults.watchers import Account

_ENDS = {
    pb.STATE_SUCCEEDED: "succeeded",
    pb.STATE_FAILED: "failed",
    pb.STATE_DEAD: "dead",
    pb.STATE_CANCELLED: "cancelled",
    pb.STATE_EXPIRED: "expired",
}
# As webhooks say it.
_STATUS = {**_ENDS, pb.STATE_SUCCEEDED: "completed"}
_AT_ONCE = 32
# Kinds whose handlers leave marks.
_MARKED = ("effect.", "outside.")


@dataclass(frozen=True, slots=True)
class Record:
    """One task as the service tells it."""

    task: pb.Task
    events: Sequence[pb.Event]


class Audit:
    """Reads every task over gRPC."""

    def __init__(self, channel: grpc.aio.Channel, ledger: Ledger, marks: Marks) -> None:
        self._stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
        self._ledger = ledger
        self._marks = marks
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def wait_for_ends(self, seconds: float) -> list[pb.Task]:
        """Waits until every accepted task has ended; returns those that have not by then."""
        waiting = list(self._ledger.accepted.values())
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            tasks = await asyncio.gather(*(self._task(task_id) for task_id in waiting))
            left = [task for task in tasks if task.state not in _ENDS]
            if not left or asyncio.get_running_loop().time() > deadline:
                return left
            waiting = [task.id for task in left]
            await asyncio.sleep(0.5)

    async def _task(self, task_id: str) -> pb.Task:
        async with self._gate:
            answer = await self._stub.GetTask(pb.GetTaskRequest(id=task_id), timeout=20, wait_for_ready=True)
            return answer.task

    async def _record(self, task_id: str) -> Record:
        task = await self._task(task_id)
        async with self._gate:
            request = pb.ListEventsRequest(id=task_id, limit=1000)
            events = (await self._stub.ListEvents(request, timeout=20, wait_for_ready=True)).events
        return Record(task, list(events))

    async def find_faults(
        self, owner_id: str, told: Iterable[Account], endpoint: Endpoint
    ) -> tuple[list[str], Counter[str]]:
        """Everything that should not be, a sentence each; and how many tasks ended in which way.

        Args:
            told: what the owner's watchers have heard.
            endpoint: of the owner's webhook.
        """
        records = await asyncio.gather(*(self._record(task_id) for task_id in self._ledger.accepted.values()))
        found = list(self._ledger.complaints)
        for record in records:
            found += [f"{record.task.id} ({record.task.kind}): {fault}" for fault in faults_of(record)]
        total = (await self._stub.ListTasks(pb.ListTasksRequest(owner_id=owner_id, limit=1))).total
        if total != len(self._ledger.accepted):
            found.append(f"{len(self._ledger.accepted)} were accepted and {total} are known")
        if len(set(self._ledger.accepted.values())) != len(self._ledger.accepted):
            found.append("two keys were answered with one task")
        found += self._marks.complaints()
        found += self._faults_of_marks({record.task.id: record for record in records})
        found += endpoint.complaints
        for record in records:
            found += endpoint.faults_of(record.task.id, _STATUS.get(record.task.state, "live"))
        for account in told:
            found += account.complaints
            found += [fault for record in records for fault in _faults_of_account(record, account)]
        return found, Counter(_ENDS.get(record.task.state, "live") for record in records)

    def _faults_of_marks(self, records: dict[str, Record]) -> Iterable[str]:
        """What was done outside, against what the service says was done."""
        attempts: defaultdict[str, list[int]] = defaultdict(list)
        for task_id, attempt in self._marks.executions():
            attempts[task_id].append(attempt)
        for task_id, seen in attempts.items():
            if task_id not in records:
                yield f"{task_id} was run and nobody knows it was accepted"
            elif len(seen) != len(set(seen)):
                yield f"{task_id} ran twice in one attempt: {sorted(seen)}"
            elif not set(seen) <= _started(records[task_id].events):
                yield f"{task_id} ran in attempts {sorted(seen)}, and {sorted(_started(records[task_id].events))} began"
        effects = self._marks.effects()
        for task_id, record in records.items():
            task = record.task
            if task.state == pb.STATE_SUCCEEDED and task.kind.startswith(_MARKED) and task_id not in effects:
                yield f"{task_id} succeeded and had no effect"


def faults_of(record: Record) -> Iterable[str]:
    """What is wrong with one task's end and its events. Pure."""
    task, events = record.task, record.events
    end = _ENDS.get(task.state)
    if end is None:
        yield f"has not ended: {pb.State.Name(task.state)}"
        return
    numbers = [event.sequence for event in events]
    if numbers != list(range(1, len(events) + 1)):
        yield f"its events are numbered {numbers}"
    ends = [event.type for event in events if event.type in _ENDS.values()]
    if ends != [end] or events[-1].type != end:
        yield f"it is {end} and its events end with {ends}"
    begun = [event.attempt for event in events if event.type == "started"]
    if any(later <= earlier for earlier, later in pairwise(begun)):
        yield f"its attempts do not increase: {begun}"
    if end == "succeeded":
        if not begun or task.attempt != begun[-1] or events[-1].attempt != begun[-1]:
            yield f"attempt {begun[-1:]} was the last, and {task.attempt} succeeded"
        told = json.loads(task.result).get("attempt", task.attempt)
        if told != task.attempt:
            yield f"its result is of attempt {told}, its last was {task.attempt}"


def _faults_of_account(record: Record, account: Account) -> Iterable[str]:
    """Where a watcher was told something else than what happened."""
    told = account.told.get(record.task.id)
    happened = [event.type for event in record.events]
    if told is not None and told != happened:
        yield f"{record.task.id}: a {account.name} was told {told}, and it was {happened}"


def _started(events: Sequence[pb.Event]) -> set[int]:
    return {event.attempt for event in events if event.type == "started"}
