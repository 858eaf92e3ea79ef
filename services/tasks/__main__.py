"""Runs the tasks service: ``python -m services.tasks``."""

from chassis.lifecycle import run
from services.tasks.app import build
from services.tasks.config import Settings

if __name__ == "__main__":
    run("tasks", Settings, build)
