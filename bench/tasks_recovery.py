"""How soon work goes on at full throughput after the broker, and after the database, was killed and started again.

Callers submit as fast as they are answered, and again whatever fails. Each round has three lives, on fresh stores each:
one that is not disturbed, because the rate changes with the machine and with what is stored, and one for each store.
The figures: no-op tasks that end in a second before; those of each second from when the store answers again (in the
first life, from the same moment); the first second of five in a row that have nine tenths of the rate before; the mean
of the seconds 11 to 20 as a share of it; how long tasks waited for their start before and in the last five seconds.

Usage: python -m bench.tasks_recovery [--rounds 3] [--callers 256] [--slots 256] [--calm 12] [--after 20]
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import asyncpg
import uvloop
from mesh.tasks.v1 import tasks_pb2

from bench.support.submitting import submitting
from bench.support.tasks_stage import Stage
from chassis.errors import MeshError
from deploy.local.stores.store import Store

_REQUEST = tasks_pb2.SubmitRequest(kind="automation", owner_id="bench", payload=b'{"action":"test"}')
_NOTHING = "nothing"
_SHARE = 0.9
_WINDOW = 5
_LATE = slice(10, 20)
_READY_SECONDS = 60
_ENDS = """
SELECT floor(extract(epoch FROM r.finished_at))::bigint AS second, count(*) AS ended,
       1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM r.started_at - t.created_at)) AS waited_ms
FROM tasks.task t JOIN tasks.task_result r USING (task_id) GROUP BY 1
"""


def back_from(ended: Sequence[float], wanted: float) -> int | None:
    """The first second, from 1, of `_WINDOW` seconds in a row that have this mean; None: there is none."""
    for begin in range(len(ended) - _WINDOW + 1):
        if statistics.mean(ended[begin : begin + _WINDOW]) >= wanted:
            return begin + 1
    return None


async def _submit(stub: Any, seconds: list[int]) -> None:
    """For ever; notes the second of each acceptance."""
    while True:
        try:
            await stub.Submit(_REQUEST, timeout=5)
            seconds.append(int(time.time()))
        except MeshError:
            await asyncio.sleep(0.05)


async def _until_worked(stub: Any, database: "asyncpg.Connection[Any]") -> None:
    """The worker is there, and one task has ended."""
    async with asyncio.timeout(_READY_SECONDS):
        while True:
            with suppress(MeshError):
                await stub.Submit(_REQUEST, timeout=5)
                break
            await asyncio.sleep(0.2)
        # The database has nothing to wait on.
        while not await database.fetchval("SELECT EXISTS (SELECT 1 FROM tasks.task_result)"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.2)


def _restart(store: Store) -> None:
    store.kill()
    store.start()


async def _live(arguments: argparse.Namespace, stage: Stage, store: Store | None) -> dict[str, Any]:
    """One life: the rates of the ends before and after the store was away."""
    seconds: list[int] = []
    async with submitting(stage.environment["TASKS_ADDRESS"]) as stub:
        database = await asyncpg.connect(stage.postgres.url)
        await _until_worked(stub, database)
        await database.close()
        submitting_on = [asyncio.ensure_future(_submit(stub, seconds)) for _ in range(arguments.callers)]
        await asyncio.sleep(arguments.calm)
        began = time.time()
        if store is not None:
            await asyncio.to_thread(_restart, store)
        back = time.time()
        # Whole seconds are counted, the one that it came back in as the first.
        await asyncio.sleep(arguments.after)
        for one in submitting_on:
            one.cancel()
        await asyncio.wait(submitting_on)
    left = await _until_done(stage)
    return {"away_seconds": round(back - began, 1), **await _rates(arguments, stage, began, back), "left": left}


async def _rates(arguments: argparse.Namespace, stage: Stage, began: float, back: float) -> dict[str, Any]:
    database = await asyncpg.connect(stage.postgres.url)
    rows = {row["second"]: row for row in await database.fetch(_ENDS)}
    await database.close()

    def ended(begin: int, end: int) -> list[int]:
        return [rows[second]["ended"] if second in rows else 0 for second in range(begin, end)]

    def waited(begin: int, end: int) -> float:
        return round(statistics.median([float(rows[at]["waited_ms"]) for at in range(begin, end) if at in rows]), 1)

    first, last = int(back), int(back) + arguments.after
    before = statistics.mean(ended(int(began) - _WINDOW, int(began)))
    after = ended(first, last)
    return {
        "before_per_second": round(before),
        "after_by_second": after,
        "nine_tenths_from_second": back_from(after, _SHARE * before),
        "seconds_11_to_20_of_before": round(statistics.mean(after[_LATE]) / before, 2),
        "waited_ms_before": waited(int(began) - _WINDOW, int(began)),
        "waited_ms_in_the_end": waited(last - _WINDOW, last),
        "ended": sum(row["ended"] for row in rows.values()),
    }


async def _until_done(stage: Stage) -> int:
    """Waits until every accepted task has ended; answers how many have not after two minutes."""
    database = await asyncpg.connect(stage.postgres.url)
    with suppress(TimeoutError):
        async with asyncio.timeout(120):
            while await database.fetchval("SELECT EXISTS (SELECT 1 FROM tasks.task_live)"):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.2)
    left: int = await database.fetchval("SELECT count(*) FROM tasks.task_live")
    await database.close()
    return left


def main() -> None:
    """Runs it and prints the figures of each life as it ends, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--calm", type=int, default=12, help="seconds before")
    parser.add_argument("--after", type=int, default=20, help="seconds after")
    arguments = parser.parse_args()
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for killed in (_NOTHING, "rabbitmq", "postgres"):
            figures = _measure(arguments, killed)
            shares[killed].append(figures["seconds_11_to_20_of_before"])
            print(json.dumps({"killed": killed, **figures}), flush=True)
    print(
        json.dumps({"median_seconds_11_to_20_of_before": {name: statistics.median(of) for name, of in shares.items()}})
    )


def _measure(arguments: argparse.Namespace, killed: str) -> dict[str, Any]:
    with ExitStack() as stack:
        stage = Stage(stack)
        stage.start_tasks()
        slots = {"MESH_WORKER_SLOTS": str(arguments.slots)}
        stage.run("worker-0", [sys.executable, "-m", "services.tasks.worker"], slots)
        return uvloop.run(_live(arguments, stage, None if killed == _NOTHING else getattr(stage, killed)))


if __name__ == "__main__":
    main()
