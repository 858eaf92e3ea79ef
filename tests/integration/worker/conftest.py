"""A mesh of real processes over the private Postgres and RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from chassis import migrations
from chassis.config import Postgres
from tests.integration.worker.load import Load
from tests.integration.worker.processes import Mesh, Tasks
from tests.support.faults.marks import Marks


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
async def tasks(mesh: Mesh, tasks_schema: None) -> Tasks:
    """The tasks service, running."""
    del tasks_schema
    await mesh.add_tasks()
    return Tasks(await mesh.channel(mesh.environment["TASKS_ADDRESS"]))


@pytest.fixture
def tasks_schema(database_url: str) -> None:
    """The schema of the tasks service, up to date."""
    migrations.upgrade("tasks", Postgres(url=database_url))


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
