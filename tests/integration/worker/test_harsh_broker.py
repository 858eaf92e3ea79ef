"""A broker that loses everything it had, and one that is impatient with consumers; both of their own."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from mesh.tasks.v1 import tasks_pb2

from deploy.local.state import StateDir
from deploy.local.stores.rabbitmq import RabbitMQ
from tests.integration.worker.load import Load, prove_recovery
from tests.integration.worker.processes import Mesh, Tasks

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.long, pytest.mark.timeout(600)]


class Impatient(RabbitMQ):
    """Closes the channel of whoever holds a message for five seconds; it looks once a minute."""

    def prepare(self) -> None:
        super().prepare()
        with (self.directory / "rabbitmq.conf").open("a") as configuration:
            configuration.write("consumer_timeout = 5000\n")


@pytest.fixture
async def rabbit(tmp_path: Path) -> AsyncIterator[Impatient]:
    """A broker that the test may do anything to."""
    broker = Impatient(StateDir(tmp_path / "state"))
    try:
        await asyncio.to_thread(broker.start)
        yield broker
    finally:
        broker.kill()


@pytest.fixture
async def mesh(database_url: str, rabbit: Impatient) -> AsyncIterator[Mesh]:
    """Nothing started yet but the stores."""
    environment = {
        "DATABASE_URL": database_url,
        "AMQP_URL": rabbit.url,
        "MESH_DISCOVERY": "static",
        "MESH_LOG_LEVEL": "info",
    }
    async with AsyncExitStack() as stack:
        yield Mesh(stack, environment)


def _wipe(broker: RabbitMQ) -> None:
    broker.kill()
    shutil.rmtree(broker.directory / "data")
    broker.start()


def _delay(seconds: float) -> bytes:
    return json.dumps({"action": "delay", "seconds": seconds}).encode()


async def test_a_broker_whose_data_was_wiped_loses_no_task(mesh: Mesh, tasks: Tasks, rabbit: Impatient) -> None:
    """Queues, messages, users: all gone. The tasks of every class come back from Postgres and end once each."""
    task_ids = [
        await tasks.submit("automation", b'{"action": "test"}', priority=number % 4 + 1) for number in range(40)
    ]
    await asyncio.sleep(1)  # until the pointers are with the broker; if not, the test asks for less
    await asyncio.to_thread(_wipe, rabbit)
    await mesh.add_worker("worker-1")
    ended = await asyncio.gather(*(tasks.until_ended(task_id, 90) for task_id in task_ids))
    assert {(task.state, task.attempt) for task in ended} == {(tasks_pb2.STATE_SUCCEEDED, 1)}


async def test_a_wiped_broker_is_made_up_for(load: Load, rabbit: Impatient) -> None:
    """Nine tenths of the rate come again within ten seconds."""
    await prove_recovery(load, lambda: _wipe(rabbit))


async def test_a_task_that_outlasts_the_brokers_patience_runs_once(mesh: Mesh, tasks: Tasks) -> None:
    """75 s of work against five of patience, and a second task that waits behind the first all that time."""
    await mesh.add_worker("worker-1", slots=1)
    long = await tasks.submit("automation", _delay(75))
    await tasks.until_running(long)
    behind = await tasks.submit("automation", _delay(1))
    task = await tasks.until_ended(long, 120)
    assert (task.state, task.attempt) == (tasks_pb2.STATE_SUCCEEDED, 1)
    told = [event.type for event in await tasks.events(long) if event.type != "progress"]
    assert told == ["queued", "started", "succeeded"]
    task = await tasks.until_ended(behind, 60)
    assert (task.state, task.attempt) == (tasks_pb2.STATE_SUCCEEDED, 1)
