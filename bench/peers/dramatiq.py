"""No-op tasks in Dramatiq. ``python -m bench.peers.dramatiq`` submits, ``dramatiq bench.peers.dramatiq:build`` works.

Durable: persistent messages, each confirmed, acknowledged after the result is committed. Dramatiq has no result backend
for Postgres, so there is one here: a single insert, committed at once, on a connection for each thread.
"""

import os
import threading
from typing import Any

import dramatiq
import psycopg
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import ResultBackend, Results

from bench.peers.conversation import PAYLOAD, noop, serve_threads, settings

_STORE = "INSERT INTO bench_result VALUES (%s, %s) ON CONFLICT DO NOTHING"


class PostgresResults(ResultBackend):  # type: ignore[misc]  # not installed where types are checked
    """Results by the message's id."""

    def __init__(self) -> None:
        super().__init__()
        self._held = threading.local()

    def build_message_key(self, message: Any) -> str:
        return str(message.message_id)

    def _store(self, message_key: str, result: Any, ttl: int) -> None:
        del ttl
        if not hasattr(self._held, "connection"):
            self._held.connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        self._held.connection.execute(_STORE, (message_key, result))


class Broker(RabbitmqBroker):  # type: ignore[misc]  # as above
    """With a choice of the queues' type, which Dramatiq does not offer."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": settings()["queue"]}


def build() -> Any:
    """The broker with its one actor."""
    broker = Broker(url=os.environ["AMQP_URL"], confirm_delivery=True)
    broker.add_middleware(Results(backend=PostgresResults(), store_results=True))
    dramatiq.set_broker(broker)
    return dramatiq.actor(noop, actor_name="noop", max_retries=3, min_backoff=100)


def main() -> None:
    actor = build()
    serve_threads(lambda: str(actor.send(PAYLOAD).message_id))


if __name__ == "__main__":
    main()
