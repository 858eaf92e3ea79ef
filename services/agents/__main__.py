"""``python -m services.agents``."""

from chassis.lifecycle import run
from services.agents.app import build
from services.agents.config import Settings

if __name__ == "__main__":
    run("agents", Settings, build)
