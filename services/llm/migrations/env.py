"""Alembic's way into this service's schema."""

from chassis.migrations import run_env
from services.llm.tables import metadata

run_env("llm", metadata)
