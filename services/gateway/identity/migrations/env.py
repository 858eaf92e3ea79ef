"""Alembic's door to schema `gateway`."""

from chassis.migrations import run_env
from services.gateway.identity.tables import SCHEMA, metadata

run_env(SCHEMA, metadata)
