"""Starts the service: ``python -m services.ratelimit``."""

from chassis.lifecycle import run
from services.ratelimit.app import build
from services.ratelimit.config import Settings

run("ratelimit", Settings, build)
