"""No-op tasks in Procrastinate. ``python -m bench.peers.procrastinate submit`` submits, ``… worker`` works.

Durable: a task is a row in Postgres, and so is its end; it stores no results, only that a task succeeded.
"""

import asyncio
import os
import sys
from typing import Any

from procrastinate import App, PsycopgConnector

from bench.peers.conversation import PAYLOAD, noop, serve_async, settings


async def _noop(payload: str) -> None:
    noop(payload)


async def main() -> None:
    wanted = settings()
    connector = PsycopgConnector(conninfo=os.environ["DATABASE_URL"], min_size=1, max_size=wanted["connections"])
    app = App(connector=connector)
    task: Any = app.task(_noop, name="noop", pass_context=False)
    async with app.open_async():
        if sys.argv[1] == "submit":
            if not await app.check_connection_async():
                await app.schema_manager.apply_schema_async()
            await serve_async(_submit_one(task), _submit_many(task))
        else:
            await app.run_worker_async(concurrency=wanted["concurrency"], listen_notify=wanted["notify"])


def _submit_one(task: Any) -> Any:
    async def submit() -> str:
        return str(await task.defer_async(payload=PAYLOAD))

    return submit


def _submit_many(task: Any) -> Any:
    async def submit_many(count: int) -> list[str]:
        return [str(job) for job in await task.batch_defer_async(*({"payload": PAYLOAD} for _ in range(count)))]

    return submit_many


if __name__ == "__main__":
    asyncio.run(main())
