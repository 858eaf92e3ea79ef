"""The built-in worker as a process: it works, and it dies, stops and leaves in every way a process can."""

import asyncio
import json
import signal
import time

import pytest
from mesh.tasks.v1 import tasks_pb2

from deploy.local.stores.postgres import Postgres
from deploy.local.stores.rabbitmq import RabbitMQ
from tests.integration.worker.processes import Mesh, Tasks

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]


def _delay(seconds: float) -> bytes:
    return json.dumps({"action": "delay", "seconds": seconds}).encode()


async def test_sentiment_is_measured(mesh: Mesh, tasks: Tasks) -> None:
    """A text goes in, its sentiment comes out, and the events tell the story without a gap."""
    await mesh.add_worker("worker-1")
    task_id = await tasks.submit("sentiment_analysis", b'{"text": "I love this wonderful product!"}')
    task = await tasks.until_ended(task_id)
    assert task.state == tasks_pb2.STATE_SUCCEEDED
    assert json.loads(task.result)["sentiment"] == "positive"
    events = await tasks.events(task_id)
    assert [event.type for event in events] == ["queued", "started", "succeeded"]
    assert [event.sequence for event in events] == [1, 2, 3]


async def test_many_tasks_end_once_each(mesh: Mesh, tasks: Tasks) -> None:
    """Two workers side by side share two hundred tasks of all priorities."""
    await mesh.add_worker("worker-1", slots=8)
    await mesh.add_worker("worker-2", slots=8)
    task_ids = [
        await tasks.submit("automation", b'{"action": "test"}', priority=number % 4 + 1) for number in range(200)
    ]
    ended = [await tasks.until_ended(task_id) for task_id in task_ids]
    assert {(task.state, task.attempt) for task in ended} == {(tasks_pb2.STATE_SUCCEEDED, 1)}


async def test_a_failure_is_retried_and_a_permanent_one_is_not(mesh: Mesh, tasks: Tasks) -> None:
    """A retryable failure uses its attempts up; a permanent one ends at once with its code."""
    await mesh.add_worker("worker-1")
    dead = await tasks.submit("automation", b'{"action": "fail", "message": "not today"}', max_attempts=2)
    failed = await tasks.submit("automation", b'{"action": "dance"}')
    task = await tasks.until_ended(dead)
    assert (task.state, task.attempt, task.error.message) == (tasks_pb2.STATE_DEAD, 2, "not today")
    task = await tasks.until_ended(failed)
    assert (task.state, task.attempt, task.error.code) == (tasks_pb2.STATE_FAILED, 1, "INVALID_INPUT")
    assert "process_data" in task.error.message


async def test_a_worker_that_was_full_for_long_comes_back_to_what_waits(mesh: Mesh, tasks: Tasks) -> None:
    """It leaves its queues to others while its slots are taken; here nobody else is there."""
    await mesh.add_worker("worker-1", slots=2)
    long = [await tasks.submit("automation", _delay(5)) for _ in range(2)]
    for task_id in long:
        await tasks.until_running(task_id)
    waiting = [await tasks.submit("automation", b'{"action": "test"}', priority=1 + n % 4) for n in range(12)]
    ended = [await tasks.until_ended(task_id) for task_id in (*long, *waiting)]
    assert {(task.state, task.attempt) for task in ended} == {(tasks_pb2.STATE_SUCCEEDED, 1)}


async def test_a_killed_worker_does_not_lose_its_task(mesh: Mesh, tasks: Tasks) -> None:
    """Kill -9 in the middle of a task: another worker does it again, and it completes once."""
    first = await mesh.add_worker("worker-1")
    task_id = await tasks.submit("automation", _delay(3))
    await tasks.until_running(task_id)
    await first.kill()
    await mesh.add_worker("worker-2")
    task = await tasks.until_ended(task_id)
    assert (task.state, task.attempt) == (tasks_pb2.STATE_SUCCEEDED, 2)
    assert [event.type for event in await tasks.events(task_id)].count("succeeded") == 1


async def test_a_killed_workers_task_starts_anew_within_two_seconds(mesh: Mesh, tasks: Tasks) -> None:
    """The end of its connection tells the tasks service at once, and nobody waits for the lease."""
    working = await mesh.add_worker("worker-1", slots=1)
    task_id = await tasks.submit("automation", _delay(600))
    await tasks.until_running(task_id)
    waits: list[float] = []
    # Twice where the machine is too busy for the first time: a lease would be waited for both times.
    while len(waits) < 2 and (not waits or waits[-1] > 2.0):
        attempt = len(waits) + 2
        heir = await mesh.add_worker(f"worker-{attempt}", slots=1)
        # It has a session and is idle: the one of the other is busy.
        await tasks.until_ended(await tasks.submit("automation", b'{"action": "test"}'))
        killed_at = time.time()
        await working.kill()
        task = await tasks.until(task_id, lambda task, attempt=attempt: task.attempt == attempt)  # type: ignore[misc]  # bound now
        waits.append(task.started_at.ToNanoseconds() / 1e9 - killed_at)
        working = heir
    assert waits[-1] <= 2.0, f"the next attempt began {waits} s after the kill"


async def test_the_result_of_a_frozen_worker_is_refused(mesh: Mesh, tasks: Tasks) -> None:
    """SIGSTOP for longer than the lease: the task goes to another worker, and the first one's result has no effect."""
    frozen = await mesh.add_worker("worker-1")
    task_id = await tasks.submit("automation", _delay(2))
    await tasks.until_running(task_id)
    frozen.send(signal.SIGSTOP)
    frozen_at = time.time()
    await mesh.add_worker("worker-2")
    task = await tasks.until(task_id, lambda task: task.attempt == 2)
    # Not until it began again: the second worker may need longer than that to start.
    queued = [event.at for event in await tasks.events(task_id) if event.type == "queued"][1]
    waited = queued.ToNanoseconds() / 1e9 - frozen_at
    # As a host that vanished: its connection stands, and only the lease tells.
    assert 5.0 <= waited <= 12.0, f"it was queued again {waited:.2f} s after the first worker was frozen"
    frozen.send(signal.SIGCONT)
    task = await tasks.until_ended(task_id)
    assert json.loads(task.result)["attempt"] == task.attempt == 2
    # The frozen one takes a new session and works again.
    following = [await tasks.submit("automation", b'{"action": "test"}') for _ in range(20)]
    ended = [await tasks.until_ended(one) for one in following]
    assert {one.state for one in ended} == {tasks_pb2.STATE_SUCCEEDED}


async def test_a_draining_worker_finishes_what_it_can(mesh: Mesh, tasks: Tasks) -> None:
    """SIGTERM: the running task ends well under its first attempt, and the process leaves with 0."""
    worker = await mesh.add_worker("worker-1")
    task_id = await tasks.submit("automation", _delay(2))
    await tasks.until_running(task_id)
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    task = await tasks.get(task_id)
    assert (task.state, task.attempt) == (tasks_pb2.STATE_SUCCEEDED, 1)


async def test_a_draining_worker_hands_back_the_rest(mesh: Mesh, tasks: Tasks) -> None:
    """A task that is longer than the grace is handed back, counts as no attempt, and another worker does it."""
    worker = await mesh.add_worker("worker-1", MESH_DRAIN_SECONDS="2")
    task_id = await tasks.submit("automation", _delay(5), max_attempts=1)
    await tasks.until_running(task_id)
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    assert (await tasks.get(task_id)).state == tasks_pb2.STATE_QUEUED
    await mesh.add_worker("worker-2")
    assert (await tasks.until_ended(task_id)).state == tasks_pb2.STATE_SUCCEEDED


async def test_a_cancelled_task_stops(mesh: Mesh, tasks: Tasks) -> None:
    """Cancelling a running task interrupts its handler, and its slot does the next one."""
    await mesh.add_worker("worker-1", slots=1)
    waits: list[float] = []
    # Most of them long before the next heartbeat, which would say so too; a busy machine may be late for some.
    for _ in range(5):
        task_id = await tasks.submit("automation", _delay(600))
        await tasks.until_running(task_id)
        asked_at = time.time()
        await tasks.stub.CancelTask(tasks_pb2.CancelTaskRequest(id=task_id, owner_id="tester"))
        task = await tasks.until_ended(task_id)
        assert task.state == tasks_pb2.STATE_CANCELLED
        waits.append(task.finished_at.ToNanoseconds() / 1e9 - asked_at)
    assert sorted(waits)[2] <= 1.0, f"they were stopped after {waits} s"
    following = await tasks.submit("automation", b'{"action": "test"}')
    assert (await tasks.until_ended(following)).state == tasks_pb2.STATE_SUCCEEDED


async def test_results_outlive_a_restart_of_the_tasks_service(mesh: Mesh, tasks: Tasks) -> None:
    """The tasks service is killed while a task runs and comes back: the one attempt's result still counts."""
    await mesh.add_worker("worker-1")
    task_id = await tasks.submit("automation", _delay(1))
    await tasks.until_running(task_id)
    await mesh.services["services.tasks"].kill()
    # Longer than the task, and together with the start much shorter than the lease.
    await asyncio.sleep(1.5)
    await mesh.services["services.tasks"].start()
    await mesh.channel(mesh.environment["TASKS_ADDRESS"])
    task = await tasks.until_ended(task_id)
    assert (task.state, task.attempt) == (tasks_pb2.STATE_SUCCEEDED, 1)


async def test_a_broker_that_comes_back_is_used_again(mesh: Mesh, tasks: Tasks, rabbit_server: RabbitMQ) -> None:
    """RabbitMQ is stopped, a task is accepted, RabbitMQ is started: the task completes."""
    await mesh.add_worker("worker-1")
    await tasks.until_ended(await tasks.submit("automation", b'{"action": "test"}'))
    rabbit_server.stop()
    task_id = await tasks.submit("automation", b'{"action": "test"}')
    rabbit_server.heal()
    assert (await tasks.until_ended(task_id)).state == tasks_pb2.STATE_SUCCEEDED


@pytest.mark.long
@pytest.mark.parametrize("target", ["database", "tasks"])
async def test_work_outlasts_an_outage(mesh: Mesh, tasks: Tasks, postgres_server: Postgres, target: str) -> None:
    """Longer than a lease nobody can be told of a heartbeat; what ran before it is not given to anybody else."""
    await mesh.add_worker("worker-1")
    await mesh.add_worker("worker-2")
    task_ids = [await tasks.submit("automation", _delay(24)) for _ in range(4)]
    for task_id in task_ids:
        await tasks.until_running(task_id)
    service = mesh.services["services.tasks"]
    stop, go_on = {
        "database": (postgres_server.pause, postgres_server.resume),
        "tasks": (lambda: service.send(signal.SIGSTOP), lambda: service.send(signal.SIGCONT)),
    }[target]
    stop()
    await asyncio.sleep(13)
    go_on()
    ended = [await tasks.until_ended(task_id) for task_id in task_ids]
    assert [(task.state, task.attempt) for task in ended] == [(tasks_pb2.STATE_SUCCEEDED, 1)] * 4
