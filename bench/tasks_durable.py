"""Durable tasks a second, from submission over gRPC to the committed result, on private Postgres (fsync) and RabbitMQ.

A tasks service and a worker do no-ops; the figures: accepts alone, draining them, the whole way at full load, and the
wait from acceptance to start at half of that and at a fixed rate. CPU of every process is shown, so that the next
bottleneck has a name.

Usage: python bench/tasks_durable.py [--tasks 20000] [--callers 256] [--transport lane|unary] [--workers 1]
       [--rate 1000] [--seconds 10] [--slots 256]
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import asyncpg
import grpc
import uvloop
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from bench.peers.agentmesh_worker import GROUP
from bench.support.submitting import submitting
from bench.support.tasks_stage import Stage, by_group

# From the beginning of the commit that accepts to the first line of the handler, which is its result.
_LATENCY = """
SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99])
  WITHIN GROUP (ORDER BY 1000 * (convert_from(r.result, 'UTF8')::float8 - extract(epoch FROM t.created_at)))
FROM tasks.task t JOIN tasks.task_result r USING (task_id)
"""
_SPAN = """
SELECT count(*), extract(epoch FROM max(r.finished_at) - min(t.created_at))::float8
FROM tasks.task t JOIN tasks.task_result r USING (task_id) WHERE r.state = 4
"""
_DRAIN = """
SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM tasks.task_result
"""


def _start_workers(arguments: argparse.Namespace, stage: Stage) -> None:
    for number in range(arguments.workers):
        command = [sys.executable, "-m", "bench.peers.agentmesh_worker"]
        stage.run(f"worker-{number}", command, {"MESH_WORKER_SLOTS": str(arguments.slots)})


async def _announce(stage: Stage) -> None:
    """Makes the kind known, and nobody works."""
    kind = tasks_pb2.KindSpec(kind="noop", group=GROUP, default_max_attempts=3, default_timeout_seconds=60)
    opening = tasks_pb2.OpenSessionRequest(worker_name="bench", host="bench", slots=1, kinds=[kind])
    async with grpc.aio.insecure_channel(stage.environment["TASKS_ADDRESS"]) as channel:
        workers = tasks_pb2_grpc.WorkerServiceStub(channel)
        session_id = (await workers.OpenSession(opening, timeout=10)).session_id
        await workers.CloseSession(tasks_pb2.CloseSessionRequest(session_id=session_id), timeout=10)


async def _submit_all(stub: Any, count: int, callers: int) -> float:
    """Submits that many tasks from that many callers, each waiting for its answer. Returns the seconds it took."""
    request = tasks_pb2.SubmitRequest(kind="noop", owner_id="bench", payload=b'{"action":"test"}')
    left = iter(range(count))

    async def call() -> None:
        for _ in left:
            await stub.Submit(request, timeout=60)

    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return time.perf_counter() - began


async def _submit_steadily(stub: Any, rate: float, seconds: float) -> None:
    """Submits at a fixed rate, whether answers come or not."""
    request = tasks_pb2.SubmitRequest(kind="noop", owner_id="bench", payload=b'{"action":"test"}')
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
def _measured(stage: Stage, into: dict[str, Any], count: int) -> Iterator[None]:
    usage, began, own = stage.usage(), time.perf_counter(), time.process_time()
    yield
    seconds = time.perf_counter() - began
    used = {**by_group(usage.seconds()), "load": time.process_time() - own}
    into["cpu_us_per_task"] = {name: round(1e6 * part / count) for name, part in used.items()}
    into["cores_used"] = round(sum(used.values()) / seconds, 2)


async def _accepting(arguments: argparse.Namespace, stage: Stage, stub: Any, database: Any) -> dict[str, Any]:
    """Accepts without a worker, and what a worker then makes of the backlog."""
    figures: dict[str, Any] = {}
    with _measured(stage, figures, arguments.tasks):
        seconds = await _submit_all(stub, arguments.tasks, arguments.callers)
    _start_workers(arguments, stage)
    await _until_done(database)
    (row,) = await database.fetch(_DRAIN)
    ended, span = row
    return {
        "accepts_per_second": round(arguments.tasks / seconds),
        "drained_per_second": round(ended / span),
        **figures,
    }


async def _whole(arguments: argparse.Namespace, stage: Stage, stub: Any, database: Any) -> dict[str, Any]:
    """From the first acceptance to the last result."""
    figures: dict[str, Any] = {}
    await _clear(database)
    with _measured(stage, figures, arguments.tasks):
        await _submit_all(stub, arguments.tasks, arguments.callers)
        await _until_done(database)
    (row,) = await database.fetch(_SPAN)
    ended, span = row
    return {"tasks": ended, "per_second": round(ended / span), **figures}


async def _steady(rate: float, arguments: argparse.Namespace, stage: Stage, stub: Any, database: Any) -> dict[str, Any]:
    """At a fixed rate, how long a task waits for its start."""
    figures: dict[str, Any] = {}
    await _clear(database)
    with _measured(stage, figures, int(rate * arguments.seconds)):
        await _submit_steadily(stub, rate, arguments.seconds)
        await _until_done(database)
    p50, p95, p99 = await database.fetchval(_LATENCY)
    wait = {"p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1)}
    return {"rate": round(rate), "accept_to_start_ms": wait, **figures}


async def measure(arguments: argparse.Namespace, stage: Stage) -> dict[str, Any]:
    """All figures of one run."""
    database = await asyncpg.connect(stage.postgres.url)
    async with submitting(stage.environment["TASKS_ADDRESS"], arguments.transport) as stub:
        await _announce(stage)
        await _submit_all(stub, 500, arguments.callers)
        figures = {
            "accepting": await _accepting(arguments, stage, stub, database),
            "whole": (whole := await _whole(arguments, stage, stub, database)),
            "half_load": await _steady(whole["per_second"] / 2, arguments, stage, stub, database),
            "steady": await _steady(arguments.rate, arguments, stage, stub, database),
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
        stage = Stage(stack)
        stage.start_tasks()
        print(json.dumps(uvloop.run(measure(arguments, stage)), indent=2))


if __name__ == "__main__":
    main()
