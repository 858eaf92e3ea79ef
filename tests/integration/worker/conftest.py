"""A mesh of real processes over the private Postgres and RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.integration.worker.load import Load
from tests.integration.worker.processes import Mesh, Tasks
from tests.support.databases import Databases
from tests.support.faults.marks import Marks


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """The address of a database with the schema of the tasks service."""
    with databases.migrated("tasks") as url:
        yield url


@pytest.fixture
async def mesh(database_url: str, amqp_url: str) -> AsyncIterator[Mesh]:
    """Nothing started yet but the stores."""
    environment = {
        "DATABASE_URL": database_url,
        "AMQP_URL": amqp_url,
        "MESH_DISCOVERY": "static",
        "MESH_LOG_LEVEL": "info",
    }
    async with AsyncExitStack() as stack:
        yield Mesh(stack, environment)


@pytest.fixture
async def tasks(mesh: Mesh) -> Tasks:
    """The tasks service, running."""
    await mesh.add_tasks()
    return Tasks(await mesh.channel(mesh.environment["TASKS_ADDRESS"]))


@pytest.fixture
async def load(mesh: Mesh, tasks: Tasks, tmp_path: Path) -> AsyncIterator[Load]:
    """Work that flows: both workers have got tasks of every priority."""
    marks = Marks(tmp_path / "marks.sqlite")
    marks.lay_out()
    flowing = Load(mesh, tasks, marks)
    await flowing.begin()
    submitting = asyncio.create_task(flowing.submit())
    await flowing.until_heard(0.0, 60)
    yield flowing
    submitting.cancel()
    await asyncio.wait({submitting})
