"""Durable tasks a second, from submission over gRPC to the committed result, on private Postgres (fsync) and RabbitMQ.

A tasks service and a worker do no-ops; the figures: accepts alone, draining them, the whole way at full load, and the
wait from acceptance to start at a fixed rate. CPU of every process is shown, so that the next bottleneck has a name.

Usage: python bench/tasks_durable.py [--tasks 20000] [--callers 256] [--transport lane|unary] [--workers 1]
       [--rate 1000] [--seconds 10] [--slots 256]
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import uvloop
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from bench.support.processes import ROOT, free_port, wait_for_port
from chassis.clock import SystemClock
from chassis.config import Discovery, Process
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane
from chassis.rpc.peer import open_peer
from deploy.local.state import StateDir
from deploy.local.stores.postgres import Postgres
from deploy.local.stores.rabbitmq import RabbitMQ

_LATENCY = """
SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99])
  WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM r.started_at - t.created_at))
FROM tasks.task t JOIN tasks.task_result r USING (task_id)
"""
_SPAN = """
SELECT count(*), extract(epoch FROM max(r.finished_at) - min(t.created_at))::float8
FROM tasks.task t JOIN tasks.task_result r USING (task_id) WHERE r.state = 4
"""
_DRAIN = """
SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM tasks.task_result
"""


class Mesh:
    """The processes under measurement, by name."""

    def __init__(self, arguments: argparse.Namespace, stack: ExitStack) -> None:
        folder = Path(tempfile.mkdtemp(prefix="agentmesh-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self._stack = stack
        self._arguments = arguments
        state = StateDir(folder)
        self.postgres, rabbit = Postgres(state), RabbitMQ(state)
        for store in (self.postgres, rabbit):
            stack.callback(store.kill)
            store.start()
        self.port = free_port()
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "DATABASE_URL": self.postgres.url,
            "AMQP_URL": rabbit.url,
            "TASKS_ADDRESS": f"127.0.0.1:{self.port}",
            "MESH_GRPC_PORT": str(self.port),
            "MESH_LOG_LEVEL": "warning",
            "MESH_WORKER_SLOTS": str(arguments.slots),
        }
        self.processes = {"postgres": _tree("postgres", state), "rabbitmq": _tree("beam", state)}
        self.run("migrations", "-m", "chassis.migrations", "tasks").wait()
        self.processes["tasks"] = [psutil.Process(self.run("tasks", "-m", "services.tasks").pid)]
        wait_for_port(self.port)
        self.processes["load"] = [psutil.Process()]

    def start_workers(self) -> None:
        """Starts the workers and waits until they have sessions."""
        workers = [self.run(f"worker-{n}", "-m", "services.tasks.worker") for n in range(self._arguments.workers)]
        self.processes["worker"] = [psutil.Process(worker.pid) for worker in workers]

    def run(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        """Starts a Python process of the project; it ends with the benchmark."""
        environment = {**self.environment, "MESH_INSTANCE": name}
        child = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=sys.stderr)
        self._stack.callback(_end, child)
        return child

    def cpu_seconds(self) -> dict[str, float]:
        """CPU used so far, by name."""
        return {name: sum(_cpu(process) for process in group) for name, group in self.processes.items()}


def _tree(name: str, state: StateDir) -> list[psutil.Process]:
    marker = str(state.path)
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if name in p.name() and marker in " ".join(p.info["cmdline"] or [])]


def _cpu(process: psutil.Process) -> float:
    if "postgres" in process.name():
        # Each connection is a process of its own, and those that ended are in the parent's account.
        return sum(_used(one) for one in (process, *process.children(recursive=True)) if one.is_running())
    return _used(process)


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@asynccontextmanager
async def _submitting(mesh: Mesh, transport: str) -> AsyncIterator[tasks_pb2_grpc.TaskServiceStub]:
    async with AsyncExitStack() as stack:
        host = Host("bench", Process(), SystemClock(), stack)
        lookup = Discovery(tasks_address=f"127.0.0.1:{mesh.port}")
        opened = open_lane(host, "tasks", lookup) if transport == "lane" else open_peer(host, "tasks", lookup)
        yield tasks_pb2_grpc.TaskServiceStub(await host.enter(opened))


async def _submit_all(stub: Any, count: int, callers: int) -> float:
    """Submits that many tasks from that many callers, each waiting for its answer. Returns the seconds it took."""
    request = tasks_pb2.SubmitRequest(kind="automation", owner_id="bench", payload=b'{"action":"test"}')
    left = iter(range(count))

    async def call() -> None:
        for _ in left:
            await stub.Submit(request, timeout=60)

    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return time.perf_counter() - began


async def _submit_steadily(stub: Any, rate: float, seconds: float) -> None:
    """Submits at a fixed rate, whether answers come or not."""
    request = tasks_pb2.SubmitRequest(kind="automation", owner_id="bench", payload=b'{"action":"test"}')
    began = time.perf_counter()
    calls = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        calls.append(asyncio.ensure_future(stub.Submit(request, timeout=60)))
    await asyncio.gather(*calls)


async def _until_done(database: "asyncpg.Connection[asyncpg.Record]") -> None:
    async with asyncio.timeout(300):
        # The database has nothing to wait on.
        while await database.fetchval("SELECT EXISTS (SELECT 1 FROM tasks.task_live)"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


async def _clear(database: "asyncpg.Connection[asyncpg.Record]") -> None:
    await database.execute("TRUNCATE tasks.task, tasks.task_live, tasks.task_result, tasks.task_event, tasks.schedule")
    await database.execute("VACUUM ANALYZE")
    await database.execute("CHECKPOINT")


@contextmanager
def _measured(mesh: Mesh, into: dict[str, Any], count: int) -> Iterator[None]:
    before, began = mesh.cpu_seconds(), time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    after = mesh.cpu_seconds()
    into["cpu_us_per_task"] = {name: round(1e6 * (after[name] - before[name]) / count) for name in after}
    into["cores_used"] = round(sum(after[name] - before[name] for name in after) / seconds, 2)


async def _accepting(arguments: argparse.Namespace, mesh: Mesh, stub: Any, database: Any) -> dict[str, Any]:
    """Accepts without a worker, and what a worker then makes of the backlog."""
    figures: dict[str, Any] = {}
    with _measured(mesh, figures, arguments.tasks):
        seconds = await _submit_all(stub, arguments.tasks, arguments.callers)
    mesh.start_workers()
    await _until_done(database)
    (row,) = await database.fetch(_DRAIN)
    ended, span = row
    return {
        "accepts_per_second": round(arguments.tasks / seconds),
        "drained_per_second": round(ended / span),
        **figures,
    }


async def _whole(arguments: argparse.Namespace, mesh: Mesh, stub: Any, database: Any) -> dict[str, Any]:
    """From the first acceptance to the last result."""
    figures: dict[str, Any] = {}
    await _clear(database)
    with _measured(mesh, figures, arguments.tasks):
        await _submit_all(stub, arguments.tasks, arguments.callers)
        await _until_done(database)
    (row,) = await database.fetch(_SPAN)
    ended, span = row
    return {"tasks": ended, "per_second": round(ended / span), **figures}


async def _steady(arguments: argparse.Namespace, mesh: Mesh, stub: Any, database: Any) -> dict[str, Any]:
    """At a fixed rate, how long a task waits for its start."""
    figures: dict[str, Any] = {}
    await _clear(database)
    with _measured(mesh, figures, int(arguments.rate * arguments.seconds)):
        await _submit_steadily(stub, arguments.rate, arguments.seconds)
        await _until_done(database)
    p50, p95, p99 = await database.fetchval(_LATENCY)
    wait = {"p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1)}
    return {"rate": arguments.rate, "accept_to_start_ms": wait, **figures}


async def measure(arguments: argparse.Namespace, mesh: Mesh) -> dict[str, Any]:
    """All figures of one run."""
    database = await asyncpg.connect(mesh.postgres.url)
    async with _submitting(mesh, arguments.transport) as stub:
        await _submit_all(stub, 500, arguments.callers)
        figures = {
            "accepting": await _accepting(arguments, mesh, stub, database),
            "whole": await _whole(arguments, mesh, stub, database),
            "steady": await _steady(arguments, mesh, stub, database),
        }
    await database.close()
    return figures


def main() -> None:
    """Runs it and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--transport", choices=("lane", "unary"), default="lane")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        mesh = Mesh(arguments, stack)
        print(json.dumps(uvloop.run(measure(arguments, mesh)), indent=2))


if __name__ == "__main__":
    main()
