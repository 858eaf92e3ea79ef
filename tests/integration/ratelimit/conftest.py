"""The service as a process of its own, and a limiter on a real Redis inside the test."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from mesh.ratelimit.v1 import ratelimit_pb2_grpc as pb_grpc

from chassis.clock import SystemClock
from deploy.local.ports import free_port
from services.ratelimit.memory import MemoryShadow
from services.ratelimit.operations import Limiter
from services.ratelimit.rules.file import RuleFile
from services.ratelimit.store import ClusterStore, RedisStore

_ROOT = Path(__file__).parents[3]


class Deciding:
    """A limiter, its store and its shadow."""

    def __init__(
        self,
        url: str,
        instances: int = 1,
        *,
        open_store: type[RedisStore | ClusterStore] = RedisStore,
        rules: Path | None = None,
        deadline_seconds: float = 0.9,
    ) -> None:
        self.shadow = MemoryShadow(SystemClock(), lambda: instances, cap=10_000)
        # Generous, so that a busy machine is not taken for a Redis that hangs.
        self.store = open_store(url, self.shadow, deadline_seconds=deadline_seconds)
        self.limiter = Limiter(rules=RuleFile(rules), store=self.store, shadow=self.shadow)
        self._task = asyncio.get_running_loop().create_task(self.store.run())

    async def until(self, *, ready: bool) -> None:
        async with asyncio.timeout(20):
            while self.store.ready != ready:
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.fixture
async def deciding(redis_url: str) -> AsyncIterator[Deciding]:
    found = Deciding(redis_url)
    await found.until(ready=True)
    yield found
    await found.close()


@pytest.fixture
def kept_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which Redis is silent is kept, however long this machine takes while Redis is frozen."""
    monkeypatch.setattr("services.ratelimit.store.redis._SILENCE_SECONDS", 60.0)


@pytest.fixture
async def hurried(redis_url: str, kept_connection: None) -> AsyncIterator[Deciding]:
    """A limiter that waits only a moment for a frozen Redis, and hears what it says afterwards."""
    del kept_connection
    found = Deciding(redis_url, deadline_seconds=0.25)
    await found.until(ready=True)
    yield found
    await found.close()


class Service:
    """A running service process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.address = f"127.0.0.1:{port}"

    @contextmanager
    def stub(self) -> Iterator[pb_grpc.RatelimitServiceStub]:
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            yield pb_grpc.RatelimitServiceStub(channel)


@contextmanager
def starting() -> Iterator[Callable[..., Service]]:
    """Gives what starts the service with an environment; the services end with the context."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*prefix: str, **environment: str) -> Service:
        port = free_port()
        paths = {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'proto'}", "PATH": os.defpath}
        process = subprocess.Popen(
            [sys.executable, "-m", *prefix, "services.ratelimit"],
            cwd=_ROOT,
            env=paths | {"MESH_GRPC_PORT": str(port)} | environment,
        )
        started.append(process)
        return Service(process, port)

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def start_service() -> Iterator[Callable[..., Service]]:
    """Starts the service with the given environment; it ends with the test."""
    with starting() as start:
        yield start
