"""The customer-service API: its document's examples, shapes and errors."""

from datetime import timedelta
from typing import Any

import pytest
from mesh.tasks.v1 import tasks_pb2

from chassis.errors import Exhausted, Unavailable
from services.gateway.apis.support.shapes import seconds_text, uptime_text
from services.gateway.views import stamp_of
from tests.unit.gateway.apis.world import World

TASK = {
    "type": "sentiment_analysis",
    "data": {
        "text": "Great customer service experience!",
        "channel": "chat",
        "customer_id": "CUST123",
        "priority": "high",
    },
}
ACCEPTED = {"task_id": "task_1234567890", "status": "accepted", "queue_position": 1, "estimated_process_time": "2s"}
COMPLETED = {
    "task_id": "task_1234567890",
    "status": "completed",
    "result": {"sentiment": "positive", "confidence": 0.95, "processing_time": "1.5s"},
}
WORKER = {"id": 0, "status": "active", "tasks_processed": 150, "uptime": "2h 30m", "current_load": 0.75}
STARTED = {"worker_id": 3, "status": "started", "endpoint": "ws://localhost:8000/worker/3"}
CHANNELS = {"channels": {"chat": {"status": "active", "current_load": 45, "response_time": "2s"}}}


def fits(shown: Any, example: Any) -> bool:
    """Whether every field of the example is there, with a value of its type."""
    if isinstance(example, dict):
        return all(name in shown and fits(shown[name], value) for name, value in example.items())
    if isinstance(example, list):
        return all(fits(each, example[0]) for each in shown)
    return type(shown) is type(example)


def add_worker(world: World, name: str, running: int = 0, **more: Any) -> None:
    opened = stamp_of(world.clock.now() - timedelta(hours=2, minutes=30))
    world.tasks.workers.append(
        tasks_pb2.WorkerSummary(name=name, slots=4, running=running, finished=150, opened_at=opened, **more)
    )


async def test_the_examples_of_the_document(world: World):
    """A task is submitted and looked at; field by field as printed."""
    accepted = await world.ask("POST", "/task", TASK)
    assert accepted.status == 202
    assert fits(accepted.json, ACCEPTED)
    assert (accepted.json["status"], accepted.json["estimated_process_time"]) == ("accepted", "5m")
    task = world.tasks.tasks[accepted.json["task_id"]]
    # What it is worth stands among its data.
    assert task.priority == tasks_pb2.PRIORITY_HIGH
    task.state = tasks_pb2.STATE_SUCCEEDED
    task.result = b'{"sentiment":"positive","confidence":0.95,"processing_time":"1.5s"}'
    shown = (await world.ask("GET", f"/task/{task.id}")).json
    assert fits(shown, COMPLETED)
    assert (shown["status"], shown["result"]) == ("completed", COMPLETED["result"])


@pytest.mark.parametrize("priority", [["high"], {"a": 1}, 7, None, "urgent"])
async def test_a_priority_in_the_data_that_is_none_is_data(world: World, priority: Any):
    """It is passed on and means nothing."""
    answer = await world.ask("POST", "/task", {"type": "automation", "data": {"priority": priority}})
    assert answer.status == 202
    assert world.tasks.tasks[answer.json["task_id"]].priority == tasks_pb2.PRIORITY_NORMAL


async def test_workers_are_shown_as_measured(world: World):
    """Active are those with something to do; every number is somebody's."""
    for name, running in (("tasks-worker-1", 3), ("7", 0), ("agents", 0), ("other-1", 0)):
        add_worker(world, name, running, external=name == "7")
    shown = (await world.ask("GET", "/workers")).json
    assert (shown["total_workers"], shown["active_workers"]) == (4, 1)
    assert fits(shown["workers"], [WORKER])
    assert {worker["name"]: worker["id"] for worker in shown["workers"]} == {
        "tasks-worker-1": 1,
        "7": 7,
        "agents": 0,
        "other-1": 2,
    }
    busy = next(worker for worker in shown["workers"] if worker["name"] == "tasks-worker-1")
    assert (busy["status"], busy["uptime"], busy["current_load"]) == ("active", "2h 30m", 0.75)


async def test_a_worker_from_outside_gets_an_address(world: World):
    """The printed request; its address says what it may do, so that any gateway knows."""
    body = {"worker_id": 3, "config": {"max_tasks": 100, "timeout": 30}}
    answer = await world.ask("POST", "/workers", body, who="admin", headers={"host": "localhost:8000"})
    assert answer.status == 200
    assert fits(answer.json, STARTED)
    assert answer.json["endpoint"] == "ws://localhost:8000/worker/3?slots=100&timeout=30"
    assert answer.json["kinds"] == ["worker.3"]
    add_worker(world, "3", external=True)
    again = await world.ask("POST", "/workers", body, who="admin")
    assert (again.status, again.json["error"]["code"]) == (409, "WORKER_EXISTS")


async def test_users_bring_no_workers(world: World):
    """Only administrators and workers do."""
    answer = await world.ask("POST", "/workers", {"worker_id": 3})
    assert answer.status == 403


async def test_channels_are_shown_as_measured(world: World):
    """Busy ones are active, others idle."""
    finished = stamp_of(world.clock.now() - timedelta(hours=1))
    world.tasks.channels = [
        tasks_pb2.ChannelSummary(channel="chat", waiting=40, running=5, response_seconds=2.0),
        tasks_pb2.ChannelSummary(channel="email", response_seconds=300.0, last_finished_at=finished),
    ]
    shown = (await world.ask("GET", "/channels")).json
    assert fits(shown, CHANNELS)
    assert shown["channels"]["chat"]["current_load"] == 45
    assert (shown["channels"]["email"]["status"], shown["channels"]["email"]["response_time"]) == ("idle", "5m")


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (("GET", "/task/task_01ARZ3NDEKTSV4RRFFQ69G5FAV", None, "user"), 404, "TASK_NOT_FOUND"),
        (("GET", "/task/task_123", None, "user"), 404, "TASK_NOT_FOUND"),
        (("POST", "/task", {"type": "levitate"}, "user"), 400, "INVALID_INPUT"),
        (("POST", "/task", {"type": "worker.9"}, "user"), 503, "WORKER_OFFLINE"),
        (("POST", "/task", {}, "user"), 400, "INVALID_INPUT"),
        (("POST", "/task", {"type": "automation", "data": []}, "user"), 400, "INVALID_INPUT"),
        (("POST", "/task", b"{", "user"), 400, "INVALID_INPUT"),
        (("POST", "/workers", {"worker_id": -1}, "admin"), 400, "INVALID_INPUT"),
        (("POST", "/workers", {"worker_id": "../x"}, "admin"), 400, "INVALID_INPUT"),
        (("GET", "/workers", None, "stranger"), 401, "UNAUTHORIZED"),
    ],
)
async def test_errors_have_the_documents_codes(world: World, asked, status, code):
    """``{"error": {"code", "message", "details"}}``."""
    method, path, body, who = asked
    answer = await world.ask(method, path, body, who=who)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert set(answer.json["error"]) == {"code", "message", "details"}


async def test_a_full_queue_says_when_to_come_back(world: World):
    """QUEUE_FULL with Retry-After; a service that is away is 503."""
    world.tasks.failure = Exhausted("The queue is full", code="QUEUE_FULL", retry_after_seconds=2.5)
    full = await world.ask("POST", "/task", TASK)
    assert (full.status, full.json["error"]["code"], full.headers["retry-after"]) == (429, "QUEUE_FULL", "3")
    world.tasks.failure = Unavailable()
    assert (await world.ask("POST", "/task", TASK)).status == 503


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "unknown"), (0.0021, "0.002s"), (1.5, "1.5s"), (2, "2s"), (300, "5m"), (7200, "2.0h")]
)
def test_durations_read_as_the_document_writes_them(seconds: float, text: str):
    """Seconds below a minute, then minutes."""
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(59, "0m"), (9000, "2h 30m"), (90_000, "1d 1h")])
def test_uptimes_read_as_the_document_writes_them(seconds: float, text: str):
    """Hours and minutes."""
    assert uptime_text(seconds) == text
