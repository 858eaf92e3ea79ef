"""The pool against a real Postgres whose connections are ended under it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import exc, text

from chassis.config import Postgres
from chassis.database import Database, open_database
from chassis.errors import Unavailable

pytestmark = pytest.mark.postgres


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    settings = Postgres(url=database_url, pool_size=4, max_overflow=0, pool_timeout_seconds=0.2)
    async with open_database(settings, "sample") as opened:
        async with opened.transaction() as connection:
            await connection.execute(text("DROP TABLE IF EXISTS thing"))
            await connection.execute(text("CREATE TABLE thing (id int PRIMARY KEY)"))
        yield opened


async def _count(database: Database) -> int:
    async with database.driver() as driver:
        count: int = await driver.fetchval("SELECT count(*) FROM thing")
        return count


async def _insert_and_fail(door: Any, statement: Any) -> None:
    async with door as connection:
        await connection.execute(statement)
        raise LookupError


async def test_a_block_commits_and_an_error_rolls_back(database: Database) -> None:
    """Both doors: what was inserted stays, what was inserted before an error does not."""
    async with database.transaction() as connection:
        await connection.execute(text("INSERT INTO thing VALUES (1)"))
    async with database.driver() as driver:
        await driver.execute("INSERT INTO thing VALUES (2)")
    with pytest.raises(LookupError):
        await _insert_and_fail(database.transaction(), text("INSERT INTO thing VALUES (3)"))
    with pytest.raises(LookupError):
        await _insert_and_fail(database.driver(), "INSERT INTO thing VALUES (4)")
    assert await _count(database) == 2


async def test_broken_constraints_reach_the_store_as_they_are(database: Database) -> None:
    """A duplicate is the store's to interpret, not an outage."""
    async with database.driver() as driver:
        await driver.execute("INSERT INTO thing VALUES (1)")
    with pytest.raises(exc.IntegrityError):
        async with database.transaction() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (1)"))
    with pytest.raises(asyncpg.UniqueViolationError):
        async with database.driver() as driver:
            await driver.execute("INSERT INTO thing VALUES (1)")


async def test_idle_connections_the_server_ended_are_replaced_unseen(database: Database, database_url: str) -> None:
    """After the administrator ended every idle connection, the next calls succeed."""
    await asyncio.gather(*(database.ping() for _ in range(4)))
    admin = await asyncpg.connect(database_url)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentmesh-sample'"
    )
    while await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'agentmesh-sample'"):
        await asyncio.sleep(0.01)
    await admin.close()
    await asyncio.gather(*(database.ping() for _ in range(4)))


@pytest.mark.parametrize("door", ["transaction", "driver"])
async def test_a_connection_ended_in_the_middle_is_unavailable(database: Database, door: str) -> None:
    """The caller hears Unavailable with a time to come back, and the next call works."""
    statement = "SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(Unavailable) as caught:
        async with getattr(database, door)() as connection:
            await connection.execute(text(statement) if door == "transaction" else statement)
    assert (caught.value.code, caught.value.retry_after_seconds) == ("DATABASE_ERROR", 1)
    await database.ping()


async def test_an_exhausted_pool_is_unavailable(database: Database) -> None:
    """The fifth of four waits its turn and is then told to come back."""
    held = asyncio.Event()

    async def hold() -> None:
        async with database.driver():
            await held.wait()

    holders = [asyncio.create_task(hold()) for _ in range(4)]
    while database.connections_in_use < 4:
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="QueuePool limit"):
        await database.ping()
    held.set()
    await asyncio.gather(*holders)


async def test_a_statement_that_takes_too_long_is_unavailable(database_url: str) -> None:
    """The server ends it at the configured time."""
    settings = Postgres(url=database_url, statement_timeout_seconds=0.1)
    async with open_database(settings, "sample") as database:
        with pytest.raises(Unavailable, match="statement timeout"):
            async with database.driver() as driver:
                await driver.execute("SELECT pg_sleep(5)")


@pytest.mark.parametrize("door", ["transaction", "driver", "statement"])
async def test_opening_does_not_connect(door: str) -> None:
    """Nothing listens on port 1, and only the first use says so."""
    async with open_database(Postgres(url="postgresql://nobody@127.0.0.1:1/none"), "tasks") as database:
        with pytest.raises(Unavailable) as caught:
            async with getattr(database, door)():
                pytest.fail("There is no connection")
    assert caught.value.code == "DATABASE_ERROR"
    assert caught.value.retry_after_seconds == 1
    assert "127.0.0.1" not in caught.value.message


async def _write(database: Database, door: str, number: int) -> None:
    statement = f"INSERT INTO thing VALUES ({number})"
    if door == "driver":
        async with database.driver() as driver:
            await driver.execute(statement)
    else:
        async with database.transaction() as connection:
            await connection.execute(text(statement))


@pytest.mark.parametrize("door", ["driver", "transaction"])
async def test_a_caller_that_is_cancelled_takes_nobody_with_it(database_url: str, database: Database, door: str):
    """Wherever in a transaction a cancellation strikes, what is written next on that connection is committed."""
    settings = Postgres(url=database_url, pool_size=1, max_overflow=0)
    async with open_database(settings, "sample") as single:
        await _write(single, door, 0)
        for turns in range(1, 80):
            struck = asyncio.create_task(_write(single, door, -turns))
            for _ in range(turns):
                await asyncio.sleep(0)
            struck.cancel()
            await asyncio.wait([struck])
            await _write(single, door, turns)
            async with database.driver() as other:
                assert await other.fetchval("SELECT count(*) FROM thing WHERE id = $1", turns) == 1, turns
