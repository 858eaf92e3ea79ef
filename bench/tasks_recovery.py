"""How soon work goes on at full throughput after the broker, and after the database, was killed and started again.

Callers submit as fast as they are answered, and again whatever fails. The figures: no-op tasks that end in a second
before, and from when the store answers again the seconds until nine tenths of that are done in one second.

Usage: python -m bench.tasks_recovery [--callers 256] [--slots 256] [--calm 12] [--after 20]
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
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
_SHARE = 0.9
_SETTLE_SECONDS = 6
_ENDS = """
SELECT floor(extract(epoch FROM finished_at))::bigint AS second, count(*) AS ended
FROM tasks.task_result WHERE finished_at > now() - interval '10 minutes' GROUP BY 1
"""


async def _submit(stub: Any, seconds: list[int]) -> None:
    """For ever; notes the second of each acceptance."""
    while True:
        try:
            await stub.Submit(_REQUEST, timeout=5)
            seconds.append(int(time.time()))
        except MeshError:
            await asyncio.sleep(0.05)


async def _ends(url: str) -> Counter[int]:
    database = await asyncpg.connect(url)
    try:
        return Counter({row["second"]: row["ended"] for row in await database.fetch(_ENDS)})
    finally:
        await database.close()


def _restart(store: Store) -> None:
    store.kill()
    store.start()


async def _disturb(name: str, store: Store, url: str, seconds: int) -> dict[str, Any]:
    """Kills a store and starts it again; the rates of the ends before and after."""
    began = int(time.time())
    await asyncio.to_thread(_restart, store)
    back = time.time()
    await asyncio.sleep(seconds)
    ends = await _ends(url)
    before = [ends[second] for second in range(began - 5, began)]
    wanted = _SHARE * statistics.median(before)
    after = [ends[second] for second in range(int(back), int(back) + seconds)]
    recovered = next((number for number, ended in enumerate(after, start=1) if ended >= wanted), None)
    return {
        "killed": name,
        "away_seconds": round(back - began, 1),
        "before_per_second": round(statistics.median(before)),
        "after_by_second": after,
        "seconds_to_nine_tenths": recovered,
    }


async def measure(arguments: argparse.Namespace, stage: Stage) -> dict[str, Any]:
    """Both, one after the other, under one load."""
    seconds: list[int] = []
    async with submitting(stage.environment["TASKS_ADDRESS"]) as stub:
        submitting_on = [asyncio.ensure_future(_submit(stub, seconds)) for _ in range(arguments.callers)]
        await asyncio.sleep(arguments.calm)
        broken = []
        for name, store in (("rabbitmq", stage.rabbitmq), ("postgres", stage.postgres)):
            broken.append(await _disturb(name, store, stage.postgres.url, arguments.after))
            await asyncio.sleep(_SETTLE_SECONDS)
        for one in submitting_on:
            one.cancel()
        await asyncio.wait(submitting_on)
    return {"accepted": len(seconds), "restarts": broken, **await _until_done(stage)}


async def _until_done(stage: Stage) -> dict[str, Any]:
    """Every accepted task has ended; more may have, whose answer was lost."""
    database = await asyncpg.connect(stage.postgres.url)
    with suppress(TimeoutError):
        async with asyncio.timeout(120):
            # The database has nothing to wait on.
            while await database.fetchval("SELECT EXISTS (SELECT 1 FROM tasks.task_live)"):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.2)
    ended = await database.fetchval("SELECT count(*) FROM tasks.task_result")
    left = await database.fetchval("SELECT count(*) FROM tasks.task_live")
    await database.close()
    return {"ended": ended, "left": left}


def main() -> None:
    """Runs it and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--calm", type=int, default=12)
    parser.add_argument("--after", type=int, default=20)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        stage = Stage(stack)
        stage.start_tasks()
        slots = {"MESH_WORKER_SLOTS": str(arguments.slots)}
        stage.run("worker-0", [sys.executable, "-m", "services.tasks.worker"], slots)
        print(json.dumps(uvloop.run(measure(arguments, stage)), indent=2))


if __name__ == "__main__":
    main()
