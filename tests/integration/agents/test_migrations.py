"""The steps of schema `agents`."""

import pytest

from chassis import migrations
from chassis.config import Postgres

pytestmark = pytest.mark.postgres


def test_the_steps_make_the_tables_of_the_code(database_url: str) -> None:
    """Upgrading leaves nothing to do, and upgrading again changes nothing."""
    settings = Postgres(url=database_url)
    migrations.upgrade("agents", settings)
    migrations.upgrade("agents", settings)
    migrations.check("agents", settings)
