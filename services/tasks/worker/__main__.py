"""``python -m services.tasks.worker``."""

from chassis.lifecycle import run
from services.tasks.worker.app import build
from services.tasks.worker.settings import Settings

if __name__ == "__main__":
    run("tasks-worker", Settings, build)
