"""What counts as trouble on the way to the database, and how URLs are read."""

import asyncpg
import pytest
from sqlalchemy import exc

from chassis.database import database_url, is_trouble


def _wrapped(sqlstate: str, *, invalidated: bool = False) -> exc.DBAPIError:
    origin = Exception("from the server")
    origin.sqlstate = sqlstate  # type: ignore[attr-defined]  # as the dialect's errors carry it
    return exc.DBAPIError("SELECT 1", None, origin, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("refused"),
        TimeoutError(),
        exc.TimeoutError("pool"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.TooManyConnectionsError("sorry, too many clients already"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
        exc.EmulatedDBAPIException("starting up", asyncpg.CannotConnectNowError("starting up")),
        _wrapped("57P01"),
        _wrapped("", invalidated=True),
    ],
    ids=repr,
)
def test_what_speaks_of_the_way_is_trouble(error: Exception) -> None:
    """Refused, closed, timed out, shut down and exhausted all mean: come back later."""
    assert is_trouble(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("duplicate key"),
        asyncpg.UndefinedTableError("no such table"),
        asyncpg.DataError("invalid input for query argument"),
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        exc.IntegrityError("INSERT", None, Exception("duplicate key")),
        exc.EmulatedDBAPIException("no such role", asyncpg.InvalidPasswordError("no such role")),
        _wrapped("42P01"),
        ValueError("ours"),
    ],
    ids=repr,
)
def test_what_speaks_of_the_statement_is_not_trouble(error: Exception) -> None:
    """Mistakes and broken constraints pass through to the store."""
    assert not is_trouble(error)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_every_scheme_of_postgres_is_accepted(scheme: str) -> None:
    """The driver is ours to choose, whatever the URL names."""
    url = database_url(f"{scheme}://mesh:p%40ss@db:5432/mesh")
    assert url.drivername == "postgresql+asyncpg"
    assert (url.username, url.password, url.host, url.database) == ("mesh", "p@ss", "db", "mesh")


def test_sslmode_is_understood() -> None:
    """The libpq spelling reaches asyncpg under its own name."""
    assert dict(database_url("postgresql://db/mesh?sslmode=require").query) == {"ssl": "require"}
