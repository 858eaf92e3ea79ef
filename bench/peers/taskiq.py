"""No-op tasks in Taskiq with taskiq-aio-pika and taskiq-postgres. ``python -m bench.peers.taskiq`` submits,
``python -m taskiq worker bench.peers.taskiq:build`` works.

Durable: persistent messages, each confirmed, acknowledged after the result is saved (``--ack-type when_saved``).
"""

import os
from typing import Any

import uvloop
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue, QueueType
from taskiq_pg.asyncpg import AsyncpgResultBackend

from bench.peers.conversation import PAYLOAD, noop, serve_async, settings


def build() -> Any:
    """The broker with its one task."""
    wanted = settings()
    results = AsyncpgResultBackend(dsn=os.environ["DATABASE_URL"], min_size=1, max_size=wanted["connections"])
    # Its default is a quorum queue, which costs an fsync a message and takes no priorities before RabbitMQ 4.
    queue = Queue(name="noop", type=QueueType(wanted["queue"]))
    broker = AioPikaBroker(os.environ["AMQP_URL"], qos=wanted["prefetch"], task_queues=[queue]).with_result_backend(
        results
    )
    broker.register_task(_noop, task_name="noop")
    return broker


async def _noop(payload: str) -> float:
    return noop(payload)


async def main() -> None:
    broker = build()
    await broker.startup()
    task = broker.find_task("noop")

    async def submit() -> str:
        return str((await task.kiq(PAYLOAD)).task_id)

    await serve_async(submit)
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
