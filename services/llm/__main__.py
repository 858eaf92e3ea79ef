"""Starts the llm service."""

from chassis.lifecycle import run
from services.llm.app import build
from services.llm.config import Settings

if __name__ == "__main__":
    run("llm", Settings, build)
