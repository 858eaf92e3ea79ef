"""Starts the gateway: ``python -m services.gateway``."""

from chassis.lifecycle import run
from services.gateway.app import build
from services.gateway.config import Settings

run("gateway", Settings, build)
