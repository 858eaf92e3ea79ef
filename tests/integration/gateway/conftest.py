"""Identity on a migrated database of each test's own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from chassis.config import Postgres as PostgresSettings
from chassis.database import Database, open_database
from tests.support.databases import Databases


@pytest.fixture
def gateway_database_url(databases: Databases) -> Iterator[str]:
    """The address of a migrated database of this test's own."""
    with databases.migrated("gateway") as url:
        yield url


@pytest.fixture
async def database(gateway_database_url: str) -> AsyncIterator[Database]:
    """A pool on it."""
    settings = PostgresSettings(url=gateway_database_url)
    async with open_database(settings, "gateway") as opened:
        yield opened
