"""Alembic's entry for the schema `agents`."""

from chassis.migrations import run_env
from services.agents.tables import SCHEMA, metadata

run_env(SCHEMA, metadata)
