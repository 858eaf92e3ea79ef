"""What a benchmark of tasks runs on: a private Postgres (fsync) and RabbitMQ, and beside them one system's processes.

It knows how processes start, what CPU they use and that they end; what they do is up to the caller.
"""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import psutil

from bench.support.processes import ROOT, Usage, free_port, wait_for_port
from deploy.local.guard import start_guard
from deploy.local.state import StateDir
from deploy.local.stores.postgres import Postgres
from deploy.local.stores.rabbitmq import RabbitMQ

_END_SECONDS = 10

Child: TypeAlias = "subprocess.Popen[str]"


class Stage:
    """The stores run as soon as this is made; everything ends with the stack.

    Attributes:
        environment: what every process here is told; addresses of the stores and of what was started.
        pids: process ids by name; ``worker-0`` and ``worker-1`` are counted together, as ``worker``.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        state = StateDir(Path(tempfile.mkdtemp(prefix="agentmesh-bench-")))
        # Ends everything and takes the data with it, also when the benchmark is killed.
        stack.callback(start_guard(state, erase=True).communicate)
        self.postgres, self.rabbitmq = Postgres(state), RabbitMQ(state)
        for store in (self.postgres, self.rabbitmq):
            stack.callback(store.kill)
            store.start()
        self.pids = {"postgres": self.postgres.child.pid, "rabbitmq": self.rabbitmq.child.pid}
        self.environment = {
            **os.environ,
            **dict([state.marker]),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "DATABASE_URL": self.postgres.url,
            "AMQP_URL": self.rabbitmq.url,
            "MESH_LOG_LEVEL": "warning",
        }

    def run(
        self,
        name: str,
        argv: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        talks: bool = False,
    ) -> Child:
        """Starts a process; `talks` opens its input and output to the caller."""
        child = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**self.environment, "MESH_INSTANCE": name, **(environment or {})},
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else sys.stderr,
            text=True,
        )
        self._stack.callback(end, child)
        self.pids[name] = child.pid
        return child

    def start_tasks(self) -> None:
        """Starts this project's tasks service on a fresh schema."""
        port = free_port()
        self.environment |= {"TASKS_ADDRESS": f"127.0.0.1:{port}", "MESH_GRPC_PORT": str(port)}
        migrated = self.run("migrations", [sys.executable, "-m", "chassis.migrations", "tasks"])
        if migrated.wait():
            raise RuntimeError("the migrations of the tasks service failed")
        self.run("tasks", [sys.executable, "-m", "services.tasks"])
        wait_for_port(port)
        # Workers and clients listen nowhere.
        del self.environment["MESH_GRPC_PORT"]

    def usage(self) -> Usage:
        """Counts CPU from now on."""
        return Usage(self.pids)

    def resident_bytes(self, name: str) -> int:
        """Memory of the processes of that name."""
        mine = [pid for one, pid in self.pids.items() if _group(one) == name]
        return sum(psutil.Process(pid).memory_info().rss for pid in mine)


def by_group(seconds: Mapping[str, float]) -> dict[str, float]:
    """The same, with ``worker-0`` and ``worker-1`` as ``worker``."""
    sums: dict[str, float] = defaultdict(float)
    for name, used in seconds.items():
        sums[_group(name)] += used
    return dict(sums)


def end(child: Child) -> None:
    """Ends a process, in good order if it can."""
    if child.poll() is not None:
        return
    family = psutil.Process(child.pid).children(recursive=True)
    child.terminate()
    try:
        child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for orphan in family:
        if orphan.is_running():
            orphan.kill()


def _group(name: str) -> str:
    return name.partition("-")[0]
