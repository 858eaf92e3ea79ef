"""Alembic's way in: the schema and its tables; everything else is `chassis.migrations`."""

from chassis.migrations import run_env
from services.tasks.tables import SCHEMA, metadata

run_env(SCHEMA, metadata)
