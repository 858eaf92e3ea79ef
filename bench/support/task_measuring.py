"""One system in one configuration, measured once: accepts, the way to the committed result, the wait for the start,
CPU, and whether every task that was accepted has its result.

It knows no system by name but what `task_systems` says of it.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, TypeAlias

import asyncpg

from bench.peers.conversation import Call
from bench.support import peer_environment
from bench.support.task_systems import OWN_TABLE, Configuration, System
from bench.support.tasks_stage import Child, Stage, by_group, end

_POLL_SECONDS = 0.05
# A peer that loses tasks never ends; what is missing is counted then.
_STALLED_SECONDS = 20.0
_WARM_UP = 200

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How much is measured: tasks accepted alone, about so many seconds at full load, seconds at half load."""

    accepts: int
    full_seconds: float
    half_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What was accepted between two moments; `calls` only of what was submitted at a rate."""

    count: int
    began: float
    ended: float
    calls: list[Call]

    @property
    def per_second(self) -> float:
        return self.count / (self.ended - self.began)


class Clients:
    """The processes that submit, in step."""

    def __init__(self, stage: Stage, python: Path, system: System, configuration: Configuration) -> None:
        self._callers = configuration.callers
        self.accepted: list[str] = []
        self._children = []
        for number in range(configuration.clients):
            child = stage.run(f"client-{number}", [str(python), *system.client], talks=True)
            # One after the other: the first may have tables to make.
            _hear(child)
            self._children.append(child)

    def submit(self, count: int, *, rate: float = 0.0, batch: int = 0) -> Submitted:
        """Submits so many in all, less what cannot be shared evenly."""
        share = len(self._children)
        callers = max(1, min(self._callers, count // share // (batch or 1)))
        command = {"count": count // share, "callers": callers, "rate": rate / share, "batch": batch}
        for child in self._children:
            assert child.stdin is not None
            print(json.dumps(command), file=child.stdin, flush=True)
        answers = [_hear(child) for child in self._children]
        ids = [task for answer in answers for task in answer["ids"]]
        self.accepted += ids
        return Submitted(
            count=len(ids),
            began=min(answer["began"] for answer in answers),
            ended=max(answer["ended"] for answer in answers),
            calls=[tuple(call) for answer in answers for call in answer["calls"]],
        )


def _hear(child: Child) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"the submitting program ended with {child.wait()}; its words are above")
    return dict(json.loads(line))


class Measurement:
    """Takes one system through all phases; what is done in one is waited for before the next."""

    def __init__(self, stage: Stage, system: System, configuration: Configuration, amounts: Amounts) -> None:
        self._stage = stage
        self._system = system
        self._configuration = configuration
        self._amounts = amounts
        self._python = peer_environment.python_of(system.name) if system.pinned else Path(sys.executable)
        stage.environment |= {"BENCH_SETTINGS": json.dumps(dict(configuration.settings)), **configuration.environment}

    async def take(self) -> dict[str, Any]:
        """All figures, by name."""
        database = await asyncpg.connect(self._stage.postgres.url)
        await database.execute(OWN_TABLE)
        if not self._system.pinned:
            self._stage.start_tasks()
            await self._announce(database)
        clients = Clients(self._stage, self._python, self._system, self._configuration)
        figures = self._accepting(clients)
        self._start_workers()
        figures["drained_per_second"] = await self._drained(database, clients)
        # The first workers to come have made their connections and statements now.
        clients.submit(_WARM_UP)
        await self._until_done(database, clients)
        tasks = round(figures["drained_per_second"] * self._amounts.full_seconds)
        figures |= await self._whole(database, clients, tasks)
        figures |= await self._half_load(database, clients, figures["per_second"] / 2)
        figures |= await self._verified(database, clients)
        await database.close()
        return figures

    async def _announce(self, database: Database) -> None:
        """Ours refuses kinds that nobody has announced, so a worker comes and goes before the first task."""
        [worker] = self._start_workers()
        while not await database.fetchval("SELECT EXISTS (SELECT 1 FROM tasks.kind WHERE kind = 'noop')"):  # noqa: ASYNC110 - the database has nothing to wait on
            await asyncio.sleep(_POLL_SECONDS)
        end(worker)

    def _start_workers(self) -> list[Child]:
        arguments = [part.format(bin=self._python.parent) for part in self._configuration.worker]
        return [
            self._stage.run(f"worker-{number}", [str(self._python), *arguments])
            for number in range(self._configuration.workers)
        ]

    def _accepting(self, clients: Clients) -> dict[str, Any]:
        """Accepts while nobody works."""
        count = self._amounts.accepts
        clients.submit(_WARM_UP)
        figures = {"accepts_per_second": clients.submit(count).per_second}
        if size := self._system.batch:
            figures["batched_accepts_per_second"] = clients.submit(count, batch=size).per_second
        return figures

    async def _drained(self, database: Database, clients: Clients) -> float:
        """What workers make of what waits already."""
        seen: list[tuple[float, int]] = []
        await self._until_done(database, clients, seen)
        first, last = next(one for one in seen if one[1]), seen[-1]
        return (last[1] - first[1]) / max(_POLL_SECONDS, last[0] - first[0])

    async def _whole(self, database: Database, clients: Clients, tasks: int) -> dict[str, Any]:
        """From the first submission to the last committed result, at full load.

        By what a system made of its backlog all of them have about as long: with as many tasks each, the fast ones
        would have little more than a beginning and an end.
        """
        usage = self._stage.usage()
        submitted = await asyncio.to_thread(clients.submit, tasks)
        ended = await self._until_done(database, clients)
        used, count = by_group(usage.seconds()), submitted.count
        # Seconds for a thousand.
        return {
            "per_second": count / (ended - submitted.began),
            "cpu": {name: 1000 * seconds / count for name, seconds in used.items()},
            "cpu_whole": 1000 * sum(used.values()) / count,
        }

    async def _half_load(self, database: Database, clients: Clients, rate: float) -> dict[str, Any]:
        """The wait for the start at half of what the system can do."""
        submitted = await asyncio.to_thread(clients.submit, int(rate * self._amounts.half_seconds), rate=rate)
        await self._until_done(database, clients)
        committed = self._configuration.committed
        rows = await database.fetch(committed.rows)
        starts = {row[0]: committed.started(row[1]) for row in rows}
        return {"half_load": rate, **waits(submitted.calls, starts)}

    async def _verified(self, database: Database, clients: Clients) -> dict[str, Any]:
        """Every accepted task against every committed result."""
        rows = await database.fetch(self._configuration.committed.rows)
        return ledger(clients.accepted, [row[0] for row in rows])

    async def _until_done(
        self, database: Database, clients: Clients, seen: list[tuple[float, int]] | None = None
    ) -> float:
        """When all that was accepted had results, or when there had been no more of them for long."""
        count = self._configuration.committed.count
        last, moved = -1, time.time()
        while last < len(clients.accepted):
            done = await database.fetchval(count)
            if done != last:
                last, moved = done, time.time()
            elif time.time() - moved > _STALLED_SECONDS:
                break
            if seen is not None:
                seen.append((time.time(), done))
            await asyncio.sleep(_POLL_SECONDS)
        return moved


def waits(calls: Iterable[Call], starts: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Milliseconds to the start, from the answer and from the call, of the tasks that started. One that started before
    its submitter had the answer has not waited.
    """
    started = [(starts[task], called, answered) for task, called, answered in calls if task in starts]
    return {
        "accept_to_start_ms": spread([max(0.0, 1000 * (start - answered)) for start, _, answered in started]),
        "call_to_start_ms": spread([1000 * (start - called) for start, called, _ in started]),
    }


def spread(values: list[float]) -> dict[str, float]:
    hundredths = quantiles(values, n=100, method="inclusive")
    return {"p50": hundredths[49], "p95": hundredths[94], "p99": hundredths[98]}


def ledger(accepted: list[str], results: list[str]) -> dict[str, int]:
    """How many tasks were accepted, and of them how many have no committed result or more than one."""
    ended = set(results)
    return {
        "accepted": len(accepted),
        "lost": len(set(accepted) - ended),
        "doubled": len(results) - len(ended),
    }


def measure(system: System, configuration: Configuration, amounts: Amounts) -> dict[str, Any]:
    """On stores of its own."""
    with ExitStack() as stack:
        return asyncio.run(Measurement(Stage(stack), system, configuration, amounts).take())
