"""Databases made and dropped quickly on the session's Postgres."""

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from chassis.config import Postgres as PostgresSettings
from chassis.migrations import upgrade
from deploy.local.stores.postgres import Postgres, binaries


class Databases:
    """Makes databases with names that never repeat in a session."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._numbers = itertools.count(1)
        # Migrated once, by their services, and never used but to be copied.
        self._templates: dict[tuple[str, ...], str] = {}

    def make(self, template: str = "template0") -> str:
        """Makes a database, a copy of `template` (which nobody may be connected to), and returns its name."""
        name = f"test_{next(self._numbers)}"
        self._run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        """Drops a database; whoever is still connected is cut off."""
        self._run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextmanager
    def migrated(self, *services: str) -> Iterator[str]:
        """The address of a database with the schemas of these services and nothing else in it, until the end."""
        if services not in self._templates:
            template = self.make()
            for service in services:
                upgrade(service, PostgresSettings(url=self.url(template)))
            self._templates[services] = template
        name = self.make(self._templates[services])
        yield self.url(name)
        self._postgres.heal()
        self.drop(name)

    def url(self, name: str) -> str:
        """The address of a database."""
        return self._postgres.url_of(name)

    def _run(self, statement: str) -> None:
        argv = [str(binaries() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement, self._postgres.url]
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
