"""Brings a service's schema up to date: ``python -m chassis.migrations tasks agents``.

Owns the frame (own schema, own version table, one migrating process at a time); what the steps are, only the service's
``migrations/`` folder knows.
"""

import argparse
import asyncio
import importlib.util
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from alembic import command, context
from alembic.config import Config
from alembic.util import CommandError
from pydantic import ValidationError
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import SQLAlchemyError

from chassis import logging
from chassis.config import Postgres
from chassis.database import open_engine

log = logging.get_logger(__name__)

# A step may rewrite a big table, and another replica may be at it: neither is cut short by the services' own timeout.
_STEP_TIMEOUT_SECONDS = 3600.0
# A step that waits for its lock holds up everybody behind it in the queue, so it gives up and is tried again.
_LOCK_TIMEOUT = "10s"


def upgrade(service: str, settings: Postgres, revision: str = "head") -> None:
    """Runs the steps that are missing. Blocking: call it where no event loop runs, or in a thread.

    Raises:
        FileNotFoundError: the service has no ``migrations/`` folder.
        alembic.util.CommandError: the folder's chain of steps is broken.
    """
    command.upgrade(_config(service, settings), revision)


def check(service: str, settings: Postgres) -> None:
    """Raises alembic.util.CommandError when the tables in code say more than the steps do. Blocking, as `upgrade`."""
    command.check(_config(service, settings))


def run_env(schema: str, metadata: MetaData) -> None:
    """The body of every service's ``env.py``; alembic runs it.

    Args:
        schema: the service's own; made when missing, and the only one that is looked at.
        metadata: the service's tables, each with ``schema=schema``.
    """
    settings = context.config.attributes.get("postgres") or Postgres()
    asyncio.run(_migrate(settings, schema, lambda connection: _run(connection, schema, metadata)))


def find_folder(service: str) -> Path:
    """The ``migrations/`` room of a service, or of one of its packages (the gateway's is in ``identity``)."""
    services = importlib.util.find_spec("services")
    for root in (services.submodule_search_locations or []) if services is not None else []:
        home = Path(root) / service
        for folder in (home / "migrations", *sorted(home.glob("*/migrations"))):
            if (folder / "env.py").is_file():
                return folder
    raise FileNotFoundError(f"services/{service} has no migrations/env.py; nothing can be migrated")


def _config(service: str, settings: Postgres) -> Config:
    folder = find_folder(service)
    config = Config(attributes={"postgres": settings})
    # A percent sign in a path would be an interpolation to the config parser.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def _migrate(settings: Postgres, schema: str, work: Callable[[Connection], None]) -> None:
    patient = settings.model_copy(update={"statement_timeout_seconds": _STEP_TIMEOUT_SECONDS})
    engine = open_engine(patient, f"{schema}-migrations")
    try:
        async with engine.connect() as connection:
            # Held by the session and not by a transaction, so that a step may commit in between (CREATE INDEX
            # CONCURRENTLY); the end of the connection frees it, however that comes about.
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": lock_key(schema)})
            await connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
            await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
            await connection.commit()
            await connection.run_sync(work)
            await connection.commit()
            await connection.invalidate()
    finally:
        await engine.dispose()


def lock_key(schema: str) -> int:
    """The advisory lock of a schema's migrations: stable between processes, unlike `hash`."""
    return (0x4D455348 << 32) | zlib.crc32(schema.encode())


def _run(connection: Connection, schema: str, metadata: MetaData) -> None:
    def include_name(name: str | None, kind: str, parents: object) -> bool:
        del parents
        return name == schema if kind == "schema" else True

    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=schema,
        include_schemas=True,
        include_name=include_name,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 0: up to date; 1: a step or the way to the database failed; 2: wrong use or bad settings."""
    parser = argparse.ArgumentParser(prog="python -m chassis.migrations", description="Bring schemas up to date.")
    parser.add_argument("service", nargs="+", help="folder names under services/")
    services: list[str] = parser.parse_args(arguments).service
    logging.configure("migrations", "info")
    try:
        settings = Postgres()
    except ValidationError as error:
        sys.stderr.write(f"migrations: bad settings: {error.errors()[0]['msg']} (DATABASE_URL)\n")
        return 2
    for service in services:
        try:
            upgrade(service, settings)
        except FileNotFoundError as error:
            sys.stderr.write(f"migrations: {error}\n")
            return 2
        except (CommandError, SQLAlchemyError, OSError) as error:
            sys.stderr.write(f"migrations: {service}: {error}\n")
            return 1
        log.info("Schema is up to date", schema=service)
    return 0


if __name__ == "__main__":
    sys.exit(main())
