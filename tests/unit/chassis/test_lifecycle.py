"""Processes open in order, close in reverse, and leave nothing behind when they fail to start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from chassis import lifecycle
from chassis.config import Process, Telemetry
from chassis.lifecycle import Host
from tests.support.clock import FakeClock


@dataclass(frozen=True)
class Settings:
    process: Process = field(default_factory=Process)
    telemetry: Telemetry = field(default_factory=Telemetry)


@asynccontextmanager
async def _resource(name: str, log: list[str]) -> AsyncIterator[None]:
    log.append(f"open {name}")
    try:
        yield
    finally:
        log.append(f"close {name}")


async def test_a_failed_start_closes_what_was_open():
    """Resources opened before the failure are closed in reverse, and the exit code says so."""
    log: list[str] = []

    async def build(_settings: Settings, host: Host) -> None:
        await host.enter(_resource("a", log))
        await host.enter(_resource("b", log))
        raise RuntimeError("no")

    assert await lifecycle._serve("x", Settings(), build) == 1
    assert log == ["open a", "open b", "close b", "close a"]


async def test_drain_runs_hooks_last_first_before_anything_closes():
    """Readiness goes first, then hooks in reverse, then resources."""
    log: list[str] = []

    async def build(_settings: Settings, host: Host) -> None:
        await host.enter(_resource("a", log))
        for name in ("first", "last"):
            host.on_drain(name, _note(f"drain {name}", log))
        host.health.on_change(lambda ready: _note(f"ready {ready}", log)())
        host.end()

    assert await lifecycle._serve("x", Settings(), build) == 0
    assert log == ["open a", "ready True", "ready False", "drain last", "drain first", "close a"]


def _note(text: str, log: list[str]):
    async def note() -> None:
        log.append(text)

    return note


async def test_a_dead_background_task_ends_the_process():
    """A half-dead process is worse than a dead one: the exit code is 1."""

    async def die() -> None:
        raise RuntimeError("no")

    async def build(_settings: Settings, host: Host) -> None:
        host.spawn("worker", die())

    assert await lifecycle._serve("x", Settings(), build) == 1


async def test_a_drain_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """The deadline bounds every hook together."""
    monkeypatch.setenv("MESH_DRAIN_SECONDS", "0.05")
    async with AsyncExitStack() as stack:
        host = Host("x", Process(), FakeClock(), stack)
        host.on_drain("stuck", asyncio.Event().wait)  # type: ignore[arg-type]  # its answer never comes
        await host.drain()
    assert not host.health.ready
