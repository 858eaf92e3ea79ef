"""A migrated database for each test, and the service's operations over it without gRPC or broker."""

from collections.abc import AsyncIterator, Iterator

import pytest

from chassis.config import Postgres
from chassis.migrations import upgrade
from tests.integration.tasks.core import Core, open_core
from tests.support.databases import Databases


@pytest.fixture(scope="session")
def tasks_template(databases: Databases) -> str:
    """A database with the schema; tests get copies."""
    name = databases.make()
    upgrade("tasks", Postgres(url=databases.url(name)))
    return name


@pytest.fixture
def tasks_url(databases: Databases, tasks_template: str) -> Iterator[str]:
    """The address of a database with the schema and nothing else in it."""
    name = databases.make(tasks_template)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
async def core(tasks_url: str) -> AsyncIterator[Core]:
    """The operations of one process."""
    async with open_core(tasks_url) as opened:
        yield opened
