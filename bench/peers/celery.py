"""No-op tasks in Celery. ``python -m bench.peers.celery submit`` submits, ``… worker`` works.

Durable: persistent messages, each confirmed, acknowledged after the result is committed in Postgres by Celery's own
SQLAlchemy backend, or (``"own": true``) by the task itself with a single insert, which is the least it can cost.
"""

import os
import sys
import threading
from typing import Any

from bench.peers.conversation import PAYLOAD, noop, serve_threads, settings

_held = threading.local()


def main() -> None:
    wanted = settings()
    if wanted["pool"] == "gevent" and sys.argv[1] == "worker":
        # Before Celery is imported.
        from gevent import monkey

        monkey.patch_all()
    app, task = _app(wanted)
    if sys.argv[1] == "submit":
        if not wanted["own"]:
            # Makes its tables; two workers that start at once would both try.
            app.backend.ResultSession().close()
        serve_threads(lambda: str(task.apply_async(args=[PAYLOAD]).id))
    else:
        options = ["--pool", wanted["pool"], "--concurrency", str(wanted["concurrency"])]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        app.worker_main(["worker", "--hostname", f"w{os.getpid()}@localhost", *options, *quiet])


def _app(wanted: dict[str, Any]) -> tuple[Any, Any]:
    from celery import Celery

    app = Celery("bench", broker=os.environ["AMQP_URL"])
    own = wanted["own"]
    if not own:
        app.conf.result_backend = os.environ["DATABASE_URL"].replace("postgresql://", "db+postgresql+psycopg://")
        app.conf.database_engine_options = {"pool_size": wanted["concurrency"], "max_overflow": 10}
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        broker_transport_options={"confirm_publish": True},
        task_default_queue_type=wanted["queue"],
        worker_prefetch_multiplier=wanted["prefetch"],
        result_backend_always_retry=True,
        broker_connection_retry_on_startup=True,
        broker_pool_limit=64,
        worker_hijack_root_logger=False,
    )
    return app, app.task(_committing if own else noop, name="noop", bind=own, ignore_result=own)


def _committing(task: Any, payload: str) -> None:
    started = noop(payload)
    _connection().execute("INSERT INTO bench_result VALUES (%s, %s) ON CONFLICT DO NOTHING", (task.request.id, started))


def _connection() -> Any:
    """Of this thread of this process; a pool's children must not share their parent's."""
    if getattr(_held, "owner", None) != os.getpid():
        import psycopg

        _held.connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        _held.owner = os.getpid()
    return _held.connection


if __name__ == "__main__":
    main()
