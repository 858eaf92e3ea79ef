"""What durable tasks are like at the edges: a long backlog, many that sleep, cancellation, and single HTTP requests.

backlog: how long a high task waits with an empty queue, and with 100,000 low no-ops before it that are being done.
sleepers: 10,000 async tasks that sleep, all at once in two worker processes: memory, and whether all of them end.
cancel: from DELETE at the gateway to the cancellation of the running handler.
http: single POST /api/v1/tasks with an API key and limits, accepted and committed.

Usage: python -m bench.tasks_scale [--only backlog,sleepers,cancel,http] [--backlog 100000] [--sleepers 10000]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import asyncpg
import uvloop
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from bench.mesh_chat import api_key, mesh, pids
from bench.peers.agentmesh_worker import CANCELLED_FILE
from bench.support.load import post
from bench.support.processes import ROOT, Usage, free_port
from bench.support.submitting import submitting
from bench.support.task_measuring import spread
from bench.support.tasks_stage import Stage, end

_WORKER = [sys.executable, "-m", "bench.peers.agentmesh_worker"]
_BATCH = 500
_HIGH_TASKS = 200
_HIGH_PER_SECOND = 20.0
# Longer than it takes to start all of them.
_SLEEP_SECONDS = 45.0
_CANCELLED_TASKS = 300
_HTTP_SECONDS = 10
_WAIT_SECONDS = 120.0
# More than the whole backlog may wait, and no bound on requests is reached.
_MOST_QUEUED = {"MESH_TASKS_MOST_QUEUED": "1000000", "MESH_TASKS_MOST_UNPUBLISHED": "1000000"}
_STARTS = (
    "SELECT task_id, convert_from(result, 'UTF8')::float8 FROM tasks.task_result WHERE state = 4 AND task_id = ANY($1)"
)
_HELD = """
SELECT count(*) AS ended, max(attempt) AS attempts,
       count(*) FILTER (WHERE started_at <= first.ended AND finished_at >= first.ended) AS held,
       extract(epoch FROM max(finished_at) - min(started_at))::float8 AS seconds
FROM tasks.task_result, (SELECT min(finished_at) AS ended FROM tasks.task_result WHERE state = 4) AS first
WHERE state = 4
"""

Stub: TypeAlias = "tasks_pb2_grpc.TaskServiceAsyncStub"


async def _submit_many(stub: Stub, request: tasks_pb2.SubmitRequest, count: int) -> None:
    many = tasks_pb2.SubmitManyRequest(requests=[request] * _BATCH)
    left = iter(range(count // _BATCH))

    async def call() -> None:
        for _ in left:
            await stub.SubmitMany(many, timeout=60)

    await asyncio.gather(*(call() for _ in range(4)))


async def _until(database: Any, sql: str, seconds: float = _WAIT_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        # The database has nothing to wait on.
        while not await database.fetchval(sql):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


class Alone:
    """The tasks service with its stores and a client, without a gateway."""

    def __init__(self, stage: Stage, stub: Stub, database: Any) -> None:
        self.stage = stage
        self.stub = stub
        self.database = database

    async def announce(self) -> None:
        """Makes the kinds known: a worker comes and goes."""
        worker = self.stage.run("worker-0", _WORKER)
        await _until(self.database, "SELECT EXISTS (SELECT 1 FROM tasks.kind WHERE kind = 'noop')")
        end(worker)

    def start_workers(self, count: int, slots: int) -> None:
        for number in range(count):
            self.stage.run(f"worker-{number}", _WORKER, {"MESH_WORKER_SLOTS": str(slots)})


@asynccontextmanager
async def _alone() -> AsyncIterator[Alone]:
    with ExitStack() as stack:
        stage = Stage(stack)
        stage.environment |= _MOST_QUEUED
        stage.start_tasks()
        database = await asyncpg.connect(stage.postgres.url)
        async with submitting(stage.environment["TASKS_ADDRESS"]) as stub:
            yield Alone(stage, stub, database)
        await database.close()


async def backlog(count: int) -> dict[str, Any]:
    """Waits of high tasks, without and with the backlog."""
    async with _alone() as alone:
        await alone.announce()
        alone.start_workers(1, 256)
        await _high_waits(alone, 20)
        empty = await _high_waits(alone, _HIGH_TASKS)
    async with _alone() as alone:
        await alone.announce()
        low = tasks_pb2.SubmitRequest(kind="noop", owner_id="bench", payload=b"{}", priority=tasks_pb2.PRIORITY_LOW)
        await _submit_many(alone.stub, low, count)
        alone.start_workers(1, 256)
        await _until(alone.database, "SELECT count(*) > 1000 FROM tasks.task_result")
        full = await _high_waits(alone, _HIGH_TASKS)
        left = await alone.database.fetchval("SELECT count(*) FROM tasks.task_live")
    return {"accept_to_start_ms": {"empty": empty, "backlog": full}, "low_tasks_left_at_the_end": left}


async def _high_waits(alone: Alone, count: int) -> dict[str, float]:
    request = tasks_pb2.SubmitRequest(kind="noop", owner_id="bench", payload=b"{}", priority=tasks_pb2.PRIORITY_HIGH)
    answered = {}
    for _ in range(count):
        accepted = await alone.stub.Submit(request, timeout=60)
        answered[accepted.task.id] = time.time()
        await asyncio.sleep(1 / _HIGH_PER_SECOND)
    async with asyncio.timeout(_WAIT_SECONDS):
        # The database has nothing to wait on.
        while len(rows := await alone.database.fetch(_STARTS, list(answered))) < count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.2)
    return spread([1000 * max(0.0, started - answered[task]) for task, started in rows])


async def sleepers(count: int) -> dict[str, Any]:
    """Two workers that hold all of them."""
    async with _alone() as alone:
        await alone.announce()
        alone.start_workers(2, count // 2)
        await _until(alone.database, "SELECT count(*) >= 2 FROM tasks.worker_session WHERE NOT draining")
        before = alone.stage.resident_bytes("worker")
        payload = json.dumps({"seconds": _SLEEP_SECONDS}).encode()
        request = tasks_pb2.SubmitRequest(kind="sleep", owner_id="bench", payload=payload)
        began, usage = time.perf_counter(), alone.stage.usage()
        await _submit_many(alone.stub, request, count)
        accepted = time.perf_counter() - began
        await asyncio.sleep(max(0.0, _SLEEP_SECONDS - accepted - 1))
        most = alone.stage.resident_bytes("worker")
        await _until(alone.database, f"SELECT count(*) >= {count} FROM tasks.task_result WHERE state = 4")
        seconds = time.perf_counter() - began
        held = await alone.database.fetchrow(_HELD)
        return {
            "tasks": count,
            "sleep_seconds": _SLEEP_SECONDS,
            "succeeded": held["ended"],
            "most_attempts": held["attempts"],
            "held_at_once": held["held"],
            "seconds_in_all": round(seconds, 1),
            "workers_mb": {"before": before // 1_000_000, "holding": most // 1_000_000},
            "cpu_seconds": {name: round(used, 1) for name, used in usage.seconds().items()},
        }


@contextmanager
def _mesh() -> Iterator[tuple[Path, dict[str, str], str]]:
    """The whole mesh and the key of a user of it; nobody asks for a model."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        with mesh(state, free_port(), **_MOST_QUEUED) as addresses:
            yield state, addresses, api_key(addresses["GATEWAY_URL"])


def cancel() -> dict[str, Any]:
    """One running task after the other."""
    with _mesh() as (state, addresses, key):
        written = state / "cancelled"
        written.touch()
        more = {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", CANCELLED_FILE: str(written), "MESH_WORKER_SLOTS": "512"}
        worker = subprocess.Popen(_WORKER, cwd=ROOT, env={**os.environ, **addresses, **more}, text=True)
        try:
            called = uvloop.run(_cancel_all(addresses, key))
        finally:
            end(worker)
        lines = [line.split() for line in written.read_text(encoding="utf-8").splitlines()]
        stopped = {task: float(at) for task, at in lines}
    waited = [1000 * (stopped[task] - at) for task, at in called.items() if task in stopped]
    return {"cancelled": len(called), "handlers_stopped": len(waited), "delete_to_stop_ms": spread(waited)}


async def _cancel_all(addresses: dict[str, str], key: str) -> dict[str, float]:
    """When each task was cancelled, in seconds since the epoch."""
    database = await asyncpg.connect(addresses["DATABASE_URL"])
    await _until(database, "SELECT EXISTS (SELECT 1 FROM tasks.kind WHERE kind = 'sleep')")
    url, called = f"{addresses['GATEWAY_URL']}/api/v1/tasks", {}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}, raise_for_status=True) as client:
        ids = []
        for _ in range(_CANCELLED_TASKS):
            async with client.post(url, json={"task_type": "sleep", "payload": {"seconds": 600}}) as answer:
                ids.append((await answer.json())["task_id"])
        await _until(database, f"SELECT count(*) >= {len(ids)} FROM tasks.task_live WHERE state = 3")
        for task in ids:
            called[task] = time.time()
            async with client.delete(f"{url}/{task}"):
                await asyncio.sleep(0.02)
        await _until(database, "SELECT NOT EXISTS (SELECT 1 FROM tasks.task_live)")
    await database.close()
    return called


def http() -> dict[str, Any]:
    """Accepts of single requests, with the built-in worker at work beside."""
    figures = {}
    body = json.dumps({"task_type": "automation", "payload": {"action": "test"}})
    with _mesh() as (state, addresses, key):
        url = f"{addresses['GATEWAY_URL']}/api/v1/tasks"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        post(url, body, headers, connections=32, seconds=2)
        for connections in (1, 32, 128):
            usage = Usage(pids(state))
            load = post(url, body, headers, connections=connections, seconds=_HTTP_SECONDS)
            shares = sorted(usage.seconds().items(), key=lambda pair: -pair[1])
            figures[f"{connections} connections"] = {
                "per_second": round(load.per_second),
                "p50_ms": load.p50,
                "p99_ms": load.p99,
                "refused_or_broken": load.bad,
                "cpu_us": {name: round(1e6 * used / load.requests) for name, used in shares[:6]},
            }
    return figures


def main() -> None:
    """Runs them one after the other and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="backlog,sleepers,cancel,http")
    parser.add_argument("--backlog", type=int, default=100_000)
    parser.add_argument("--sleepers", type=int, default=10_000)
    arguments = parser.parse_args()
    parts = {
        "backlog": lambda: uvloop.run(backlog(arguments.backlog)),
        "sleepers": lambda: uvloop.run(sleepers(arguments.sleepers)),
        "cancel": cancel,
        "http": http,
    }
    for name in arguments.only.split(","):
        print(json.dumps({name: parts[name]()}, indent=2), flush=True)


if __name__ == "__main__":
    main()
