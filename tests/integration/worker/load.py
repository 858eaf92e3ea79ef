"""A steady load of small tasks of every priority for workers that leave marks, and what the marks say of its rate."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.logging import get_logger
from tests.integration.worker.processes import Mesh, Tasks
from tests.support.faults.marks import Marks

log = get_logger(__name__)

KIND = "effect.quick"
WORKERS = ("effects-1", "effects-2")
PRIORITIES = (1, 2, 3, 4)
_BURST = 8
_SUBMIT_SECONDS = 2.0
_BEFORE_SECONDS = 6.0
_RECOVERED_SECONDS = 10.0
_WINDOW_SECONDS = 2.0
_SHARE = 0.9
_DEADLINE = Timestamp(seconds=int(time.time()) + 86_400)


class Load:
    """`PER_SECOND` tasks are submitted, come what may; those that cannot be are left."""

    PER_SECOND = 80.0

    def __init__(self, mesh: Mesh, tasks: Tasks, marks: Marks) -> None:
        self._mesh = mesh
        self._tasks = tasks
        self._marks = marks
        # Priorities by task.
        self._submitted: dict[str, int] = {}

    async def begin(self) -> None:
        """Starts the workers, and waits until both work."""
        for name in WORKERS:
            await self._mesh.add("tests.support.faults.worker", MARKS=str(self._marks.path), MESH_INSTANCE=name)
        await self._tasks.submit(KIND, b"{}")

    async def submit(self) -> None:
        """For ever."""
        turns = itertools.cycle(PRIORITIES)
        async with asyncio.TaskGroup() as group:
            while True:
                for _ in range(_BURST):
                    group.create_task(self._submit(next(turns)))
                await asyncio.sleep(_BURST / self.PER_SECOND)

    async def _submit(self, priority: int) -> None:
        with suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(_SUBMIT_SECONDS):
                # What has a deadline goes by the queues, whoever offers slots: they are what is to flow again.
                task_id = await self._tasks.submit(KIND, b"{}", priority=priority, deadline_at=_DEADLINE)
            self._submitted[task_id] = priority

    def starts(self, began: float, ended: float) -> int:
        """Tasks that were started between two moments, in seconds since 1970."""
        return sum(began <= at < ended for _, _, at in self._marks.starts())

    def silent_since(self, began: float) -> list[str]:
        """Workers and priorities of which nothing was started since a moment."""
        heard = Counter(
            (worker, self._submitted[task_id])
            for task_id, worker, at in self._marks.starts()
            if at >= began and task_id in self._submitted
        )
        wanted = itertools.product(WORKERS, PRIORITIES)
        return [f"{worker} at priority {priority}" for worker, priority in wanted if not heard[worker, priority]]

    async def until_heard(self, began: float, seconds: float) -> None:
        """Waits until every worker has started something of every priority since a moment."""
        until = asyncio.get_running_loop().time() + seconds
        while silent := self.silent_since(began):
            assert asyncio.get_running_loop().time() < until, f"{seconds} s after it is back nothing came to {silent}"
            await asyncio.sleep(0.2)


async def prove_recovery(load: Load, restart: Callable[[], None]) -> None:
    """Nine tenths of the rate ten seconds after the restart has ended, and nobody silent."""
    await asyncio.sleep(_BEFORE_SECONDS)
    now = time.time()
    wanted = _SHARE * load.starts(now - _BEFORE_SECONDS, now) / _BEFORE_SECONDS
    await asyncio.to_thread(restart)
    back = time.time()
    lasting_from = back + _RECOVERED_SECONDS
    await asyncio.sleep(_RECOVERED_SECONDS + _WINDOW_SECONDS)
    rates = [load.starts(back + second, back + second + 1) for second in range(round(_RECOVERED_SECONDS))]
    lasting = load.starts(lasting_from, lasting_from + _WINDOW_SECONDS) / _WINDOW_SECONDS
    figures = f"{wanted:.0f} a second were wanted, then {rates} came, and {lasting:.0f} from then on"
    log.info("A restart was made up for", figures=figures)
    assert lasting >= wanted, figures
    assert not load.silent_since(back), f"nothing came to {load.silent_since(back)}; {figures}"
