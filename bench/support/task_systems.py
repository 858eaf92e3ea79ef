"""The systems that do durable no-op tasks side by side: how each is started, in which configurations, and where it
commits results. Of the configurations of each, the first that syncs what it accepts and the first that does not are the
fastest that were found; the others are what was tried.

It knows nothing of measuring.
"""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """Where results are: SQL for (id, start) of every task whose success is committed. `started` makes seconds since
    the epoch of the second.
    """

    rows: str
    started: Callable[[Any], float] = float

    @property
    def count(self) -> str:
        """SQL for how many there are."""
        return f"SELECT count(*) FROM ({self.rows}) AS result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One way to run a system.

    Attributes:
        told: what is not the same everywhere, for people.
        synced: what is accepted is on the disk then, and survives a power cut; a classic queue's messages need not be.
        worker: arguments for the system's Python, ``{bin}`` being the folder of its programs.
        workers: how many such processes, beside those that they start themselves.
        clients: processes that submit, each from so many `callers` at once.
        settings: for the system's program, as `bench.peers.conversation.settings`.
    """

    told: str
    worker: tuple[str, ...]
    committed: Committed
    synced: bool = True
    workers: int = 1
    clients: int = 1
    callers: int = 256
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A task system. `pinned`: its packages are in ``bench/peers/<name>.txt``; otherwise it is this project. `batch`:
    how many tasks its API takes in one call.
    """

    name: str
    client: tuple[str, ...]
    configurations: Mapping[str, Configuration]
    pinned: bool = True
    batch: int = 0

    @property
    def best(self) -> list[str]:
        """The names of the fastest configurations."""
        first: dict[bool, str] = {}
        for name, configuration in self.configurations.items():
            first.setdefault(configuration.synced, name)
        return list(first.values())


# Where a peer keeps no results its program commits them here; for the others it stays empty.
OWN_TABLE = "CREATE TABLE bench_result (id text PRIMARY KEY, started float8 NOT NULL)"
_OWN = Committed(rows="SELECT id, started FROM bench_result")
_CELERY = Committed(
    rows="SELECT task_id, result FROM celery_taskmeta WHERE status = 'SUCCESS'",
    started=lambda stored: float(pickle.loads(stored)),
)
_TASKIQ = Committed(
    rows="SELECT task_id, result FROM taskiq_results",
    started=lambda stored: float(pickle.loads(stored)["return_value"]),
)
# It keeps no results, so the start is when it took the job; and a job that succeeded twice would count twice.
_PROCRASTINATE = Committed(
    rows="""SELECT job.id::text, extract(epoch FROM taken.at) FROM procrastinate_jobs job
            JOIN procrastinate_events taken ON taken.job_id = job.id AND taken.type = 'started'
            WHERE job.status = 'succeeded'"""
)
_AGENTMESH = Committed(
    rows="SELECT task_id, convert_from(result, 'UTF8')::float8 FROM tasks.task_result WHERE state = 4"
)


def _agentmesh(told: str, *, slots: int) -> Configuration:
    return Configuration(
        told=told,
        worker=("-m", "bench.peers.agentmesh_worker"),
        committed=_AGENTMESH,
        environment={"MESH_WORKER_SLOTS": str(slots)},
    )


def _celery(
    told: str, pool: str, concurrency: int, *, prefetch: int, own: bool, workers: int = 1, queue: str = "classic"
) -> Configuration:
    settings = {"own": own, "pool": pool, "concurrency": concurrency, "prefetch": prefetch, "queue": queue}
    return Configuration(
        told=told,
        worker=("-m", "bench.peers.celery", "worker"),
        committed=_OWN if own else _CELERY,
        synced=queue == "quorum",
        workers=workers,
        clients=2,
        callers=8,
        settings=settings,
    )


def _dramatiq(
    told: str, *, processes: int, threads: int, prefetch: int, program: str = "dramatiq", queue: str = "classic"
) -> Configuration:
    scale = ("--processes", str(processes), "--threads", str(threads))
    return Configuration(
        told=told,
        worker=(f"{{bin}}/{program}", "bench.peers.dramatiq:build", *scale),
        committed=_OWN,
        synced=queue == "quorum",
        clients=2,
        callers=8,
        settings={"queue": queue},
        environment={"dramatiq_queue_prefetch": str(prefetch)},
    )


def _taskiq(told: str, *, workers: int, at_once: int, prefetch: int, queue: str = "classic") -> Configuration:
    run = ("-m", "taskiq", "worker", "bench.peers.taskiq:build", "--workers", str(workers), "--log-level", "WARNING")
    limits = ("--max-async-tasks", str(at_once), "--max-prefetch", str(prefetch), "--ack-type", "when_saved")
    return Configuration(
        told=told,
        worker=(*run, *limits),
        committed=_TASKIQ,
        synced=queue == "quorum",
        settings={"prefetch": prefetch, "connections": 10, "queue": queue},
    )


def _procrastinate(told: str, *, workers: int, concurrency: int, notify: bool = True) -> Configuration:
    return Configuration(
        told=told,
        worker=("-m", "bench.peers.procrastinate", "worker"),
        committed=_PROCRASTINATE,
        workers=workers,
        callers=32,
        settings={"concurrency": concurrency, "connections": 10, "notify": notify},
    )


SYSTEMS = (
    System(
        name="agentmesh",
        pinned=False,
        client=("-m", "bench.peers.agentmesh"),
        batch=500,
        configurations={
            "1x512": _agentmesh("1 tasks service, 1 worker of 512 slots", slots=512),
            "1x256": _agentmesh("1 tasks service, 1 worker of 256 slots", slots=256),
            "1x1000": _agentmesh("1 tasks service, 1 worker of 1,000 slots", slots=1000),
        },
    ),
    System(
        name="celery",
        client=("-m", "bench.peers.celery", "submit"),
        configurations={
            "prefork-own": _celery(
                "prefork, 2 processes, prefetch 32, own insert", "prefork", 2, prefetch=32, own=True
            ),
            "prefork": _celery(
                "prefork, 2 processes, prefetch 32, its SQL backend", "prefork", 2, prefetch=32, own=False
            ),
            "threads-own": _celery("threads, 2 × 16, own insert", "threads", 16, prefetch=8, own=True, workers=2),
            "threads": _celery("threads, 64, its SQL backend", "threads", 64, prefetch=4, own=False),
            "gevent-own": _celery("gevent, 2 × 32, own insert", "gevent", 32, prefetch=8, own=True, workers=2),
            "quorum-own": _celery(
                "prefork, 2 processes, prefetch 32, own insert, quorum queue",
                "prefork",
                2,
                prefetch=32,
                own=True,
                queue="quorum",
            ),
        },
    ),
    System(
        name="dramatiq",
        client=("-m", "bench.peers.dramatiq"),
        configurations={
            "2x8": _dramatiq("2 processes × 8 threads, prefetch 64", processes=2, threads=8, prefetch=64),
            "2x32": _dramatiq("2 × 32 threads, prefetch 256", processes=2, threads=32, prefetch=256),
            "1x8": _dramatiq("1 × 8 threads, prefetch 64", processes=1, threads=8, prefetch=64),
            "gevent": _dramatiq(
                "gevent, 2 × 64, prefetch 256", processes=2, threads=64, prefetch=256, program="dramatiq-gevent"
            ),
            "quorum": _dramatiq(
                "2 × 8 threads, prefetch 64, quorum queue", processes=2, threads=8, prefetch=64, queue="quorum"
            ),
        },
    ),
    System(
        name="taskiq",
        client=("-m", "bench.peers.taskiq"),
        configurations={
            "1x300": _taskiq("1 worker, 300 at once, prefetch 300", workers=1, at_once=300, prefetch=300),
            "2x300": _taskiq("2 workers, 300 at once, prefetch 300", workers=2, at_once=300, prefetch=300),
            "1x1000": _taskiq("1 worker, 1,000 at once, prefetch 1,000", workers=1, at_once=1000, prefetch=1000),
            "2x10": _taskiq("2 workers, 100 at once, prefetch 10 (its default)", workers=2, at_once=100, prefetch=10),
            "quorum": _taskiq(
                "1 worker, 300 at once, prefetch 300, quorum queue (its default)",
                workers=1,
                at_once=300,
                prefetch=300,
                queue="quorum",
            ),
        },
    ),
    System(
        name="procrastinate",
        client=("-m", "bench.peers.procrastinate", "submit"),
        batch=500,
        configurations={
            "2x50": _procrastinate("2 workers × 50 at once", workers=2, concurrency=50),
            "1x50": _procrastinate("1 worker × 50 at once", workers=1, concurrency=50),
            "2x10": _procrastinate("2 workers × 10 at once", workers=2, concurrency=10),
            "no-notify": _procrastinate("2 × 50, without LISTEN", workers=2, concurrency=50, notify=False),
        },
    ),
)
