"""A migrated database for each test, and the service's operations over it without gRPC or broker."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.tasks.core import Core, open_core
from tests.support.databases import Databases


@pytest.fixture
def tasks_url(databases: Databases) -> Iterator[str]:
    """The address of a database with the schema and nothing else in it."""
    with databases.migrated("tasks") as url:
        yield url


@pytest.fixture
async def core(tasks_url: str) -> AsyncIterator[Core]:
    """The operations of one process."""
    async with open_core(tasks_url) as opened:
        yield opened
