"""The door to Postgres: one pool a process, transactions, and one translation of connection trouble.

Knows no table. Stores speak SQLAlchemy Core through `transaction`, and raw asyncpg through `driver` where a statement
is hot; both commit at the end of the block and roll back when it raises.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg
import orjson
from sqlalchemy import URL, event, exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from chassis.config import Postgres
from chassis.errors import MeshError, Unavailable

DriverConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_RETRY_AFTER_SECONDS = 1.0
_CONNECT_TIMEOUT_SECONDS = 5.0
# The server's own statement timeout comes first; this one is for a server that has stopped answering at all.
_SILENCE_SECONDS = 5.0
# 08 connection · 40 serialization and deadlock · 53 out of resources · 57 operator intervention (shut down, starting
# up, statement timeout) · 25006 read only, as after a failover to a standby · 55P03 a lock that was not free in time.
_TROUBLE_CLASSES = ("08", "40", "53", "57", "25006", "55P03")


class Database:
    """One pool of connections.

    Connection trouble in a block (refused, reset, terminated, shutting down, starting up, pool exhausted, statement
    timeout, deadlock) becomes Unavailable with code ``DATABASE_ERROR``; when it struck the commit, whether the
    transaction took effect is unknown. A socket error or TimeoutError that the block itself raises counts as such
    trouble: a transaction is no place for other I/O. Everything else passes through as it is, above all integrity
    errors, because only a store knows what a broken constraint means (``sqlalchemy.exc.IntegrityError`` out of
    `transaction`, ``asyncpg.IntegrityConstraintViolationError`` out of `driver`).
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the block, rolled back when it raises."""
        with _translated():
            async with self._engine.connect() as connection, connection.begin():
                yield connection

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[DriverConnection]:
        """One transaction on the bare asyncpg connection, for hot batched statements.

        json and jsonb go in as text and come out parsed, as the dialect's codec has it on every connection.
        """
        async with self.statement() as driver, _begun(driver):
            yield driver

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[DriverConnection]:
        """The bare connection without a transaction around it: each statement is one, committed when it returns.

        For what is one statement: it saves two of three round trips.
        """
        with _translated():
            # Straight from the pool: the dialect's own connection around it costs as much again, and has no use here.
            pooled = await self._engine.raw_connection()
            try:
                driver: DriverConnection | None = pooled.driver_connection
                if driver is None:
                    raise Unavailable(code="DATABASE_ERROR", private="the connection is gone", retry_after_seconds=1)
                yield driver
            finally:
                await greenlet_spawn(pooled.close)

    async def ping(self) -> None:
        """Raises Unavailable when Postgres does not answer."""
        with _translated():
            async with self._engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

    @property
    def connections_in_use(self) -> int:
        """Connections taken out of the pool now."""
        in_use: int = self._engine.pool.checkedout()  # type: ignore[attr-defined]  # every queue pool has it
        return in_use


@asynccontextmanager
async def open_database(
    settings: Postgres, schema: str, planner: Mapping[str, str] | None = None
) -> AsyncIterator[Database]:
    """Opens the pool, without connecting: Postgres may be away at start and come back at any time.

    Args:
        schema: the service's own; it names the connections in ``pg_stat_activity``. Tables carry their schema.
        planner: the server's settings for all connections of this pool, as in ``{"plan_cache_mode": …}``.
    """
    engine = open_engine(settings, schema, planner)
    try:
        yield Database(engine)
    finally:
        await engine.dispose()


def open_engine(settings: Postgres, schema: str, planner: Mapping[str, str] | None = None) -> AsyncEngine:
    """The engine behind a Database, for migrations too; the caller disposes of it."""
    engine = create_async_engine(
        database_url(settings.url.get_secret_value()),
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout_seconds,
        pool_recycle=settings.pool_recycle_seconds,
        # The connection used last is the likeliest to be alive, and the surplus of a burst can age.
        pool_use_lifo=True,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={
            "timeout": _CONNECT_TIMEOUT_SECONDS,
            "command_timeout": settings.statement_timeout_seconds + _SILENCE_SECONDS,
            "server_settings": {
                "application_name": f"agentmesh-{schema}",
                "statement_timeout": str(int(settings.statement_timeout_seconds * 1000)),
                **(planner or {}),
            },
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_dead)
    return engine


def database_url(value: str) -> URL:
    """The URL with the driver this project uses; ``sslmode`` is understood as libpq's."""
    url = make_url(value).set(drivername="postgresql+asyncpg")
    if "sslmode" in url.query:
        mode = url.query["sslmode"]
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return url


def _refuse_dead(dbapi_connection: Any, record: object, proxy: object) -> None:
    """Replaces a connection that ended while it was idle.

    asyncpg notices the end of its socket by itself, so after a restart of the server this costs no round trip, where a
    ping at every checkout would cost one each.
    """
    del record, proxy
    if dbapi_connection.driver_connection.is_closed():
        raise exc.DisconnectionError("the server closed this connection while it was idle")


@asynccontextmanager
async def _begun(driver: DriverConnection) -> AsyncIterator[None]:
    """One transaction that is over at the end of the block, or its connection is.

    A caller that is cancelled during BEGIN leaves the driver believing that a transaction stands: it would put every
    later one on this connection inside of it, as a savepoint that is never committed.
    """
    transaction = driver.transaction()
    over = False
    try:
        await transaction.start()
        try:
            yield
        except BaseException:
            await transaction.rollback()
            over = True
            raise
        await transaction.commit()
        over = True
    finally:
        if not over:
            driver.terminate()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except MeshError:
        raise
    except Exception as error:
        if not is_trouble(error):
            raise
        raise Unavailable(
            "The database is unavailable",
            code="DATABASE_ERROR",
            private=f"{type(error).__name__}: {error}",
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        ) from error


def is_trouble(error: BaseException) -> bool:
    """Whether an error speaks of the way to the database and not of the statement."""
    if isinstance(error, exc.TimeoutError | OSError):
        # The pool's timeout; a socket's own errors and asyncio's timeouts are OSErrors.
        return True
    if isinstance(error, exc.EmulatedDBAPIException):
        # The driver's error as the dialect presents it, while it connects.
        return error.orig is not None and is_trouble(error.orig)
    if isinstance(error, exc.DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        return error.connection_invalidated or state.startswith(_TROUBLE_CLASSES)
    if isinstance(error, asyncpg.InternalClientError):
        # What the driver says when the server died in the middle of its protocol ("cannot switch to state …").
        return True
    if isinstance(error, asyncpg.InterfaceError):
        # Wrong use and unfit parameters are InterfaceErrors as well; those are ours and must not look like an outage.
        return "closed" in str(error)
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_TROUBLE_CLASSES)
