"""Identity on a migrated database of each test's own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from chassis.config import Postgres as PostgresSettings
from chassis.database import Database, open_database
from chassis.migrations import upgrade
from tests.support.databases import Databases


@pytest.fixture(scope="session")
def gateway_template(databases: Databases) -> str:
    """A database with the gateway's schema, to be copied."""
    name = databases.make()
    upgrade("gateway", PostgresSettings(url=databases.url(name)))
    return name


@pytest.fixture
def gateway_database_url(databases: Databases, gateway_template: str) -> Iterator[str]:
    """The address of a migrated database of this test's own."""
    name = databases.make(gateway_template)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
async def database(gateway_database_url: str) -> AsyncIterator[Database]:
    """A pool on it."""
    settings = PostgresSettings(url=gateway_database_url, pool_timeout_seconds=1.0)
    async with open_database(settings, "gateway") as opened:
        yield opened
