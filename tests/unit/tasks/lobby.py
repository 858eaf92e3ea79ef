"""A lobby with one worker's offer before it and a batcher behind it, for the tests of it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any

from services.tasks.model.states import Priority
from services.tasks.operations import lobby as module
from services.tasks.operations.batches import Batcher
from services.tasks.operations.lobby import Lobby
from services.tasks.operations.offers import Offer
from tests.unit.tasks.test_offers import A, World, task


class FakeDirect:
    """The short way of pointers."""

    def __init__(self) -> None:
        self.passes = True
        self.clear = True

    def lets_pass(self, one: Any) -> bool:
        return self.passes and self.is_simple(one)

    def is_simple(self, one: Any) -> bool:
        return not one.run_at

    def is_clear(self, _: str) -> bool:
        return self.clear


class FakeFigures:
    """How many slots are freed in the time that is ordinary, and how long whom is held."""

    soon = inf
    held: Mapping[Priority, float] = {}

    def slots_within(self, group: str, seconds: float) -> float:
        assert group == "builtin"
        return self.soon * seconds / module.PATIENCE_SECONDS

    def hold_seconds(self, group: str, priority: Priority) -> float:
        assert group == "builtin"
        return self.held.get(priority, 0.0)


class Site:
    """A lobby before a batcher whose writer waits for `gate`, and one worker's offer."""

    def __init__(self, offer: Offer, world: World) -> None:
        self.offer = offer
        self.offers = world.offers
        self.direct = FakeDirect()
        self.gate = asyncio.Event()
        self.gate.set()
        self.written: list[str] = []
        self.slots: dict[str, Offer] = {}
        self.dropped: list[str] = []
        self.batcher: Batcher[Any, Any] = Batcher(self._write, drop=self._drop)
        self.figures = FakeFigures()
        direct: Any = self.direct
        figures: Any = self.figures
        self.lobby = Lobby(
            self.offers, direct, figures, self.batcher, drop=lambda one: self.dropped.append(one.task_id)
        )
        self.futures: list[asyncio.Future[Any]] = []
        self._most = 0

    async def _write(self, submissions: Sequence[Any]) -> Sequence[Any]:
        self.slots |= self.lobby.reserve(submissions, submissions)
        await self.gate.wait()
        self.written += [one.task_id for one in submissions]
        return [one.task_id for one in submissions]

    def _drop(self, one: Any) -> None:
        self.dropped.append(one.task_id)
        self.lobby.leave(one)

    def put(self, name: str, **changes: Any) -> "asyncio.Future[Any]":
        future = self.lobby.put(submission(name, **changes))
        self.futures.append(future)
        return future

    def free(self, count: int) -> None:
        """The worker offers so many more."""
        self._most += count
        self.offer.hear(self._most, 0)

    @property
    def waiting(self) -> list[str]:
        kinds = self.lobby._kinds.values()
        return [one.submission.task_id for kind in kinds for line in kind.lines.values() for one in line]

    async def trusted(self, count: int) -> None:
        """As many found slots."""
        self.free(count)
        for number in range(count):
            await self.put(f"before {number}")
        self.written.clear()
        self.slots.clear()


def submission(
    name: str,
    *,
    kind: str = "a",
    priority: Priority = Priority.NORMAL,
    deadline_at: object = None,
    run_at: object = None,
) -> Any:
    made = task(name, kind, priority)
    made.group, made.deadline_at, made.run_at = "builtin", deadline_at, run_at
    return made


@asynccontextmanager
async def opened() -> AsyncIterator[Site]:
    world = World()
    async with world.offers.open(A) as offer:
        made = Site(offer, world)
        running = [asyncio.ensure_future(loop) for loop in (made.lobby.run(), made.batcher.run())]
        yield made
        for one in running:
            one.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
        await asyncio.gather(*made.futures, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def all_of(*futures: "asyncio.Future[Any]") -> list[Any]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*futures)
