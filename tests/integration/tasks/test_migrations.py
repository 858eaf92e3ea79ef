"""The steps of schema `tasks`."""

import pytest

from chassis import migrations
from chassis.config import Postgres

pytestmark = pytest.mark.postgres


def test_the_steps_make_the_tables_of_the_code(tasks_url: str) -> None:
    """Upgrading leaves nothing to do."""
    migrations.check("tasks", Postgres(url=tasks_url))
