"""Submissions on their way into a batch: each has a place in its group until it is written, or is not written."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import pytest

from chassis.errors import Exhausted, Invalid, Unavailable
from services.tasks.model.states import State
from services.tasks.model.task import Accepted, Submission
from services.tasks.operations.intake import Intake
from services.tasks.store.accepting import _task
from tests.support.clock import FakeClock
from tests.unit.tasks.test_checks import draft
from tests.unit.tasks.test_figures import FakeFigures, make
from tests.unit.tasks.test_rules import NOW


class FakeStore:
    """Accepts everything when the test lets it."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.error: Exception | None = None

    async def accept(
        self, submissions: Sequence[Submission], direct: Collection[str], offered: Mapping[str, str]
    ) -> list[Accepted]:
        del direct, offered
        self.entered.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.written += [s.task_id for s in submissions]
        return [Accepted(task=_task(s, State.QUEUED, NOW), replayed=False) for s in submissions]


class Site:
    """An intake whose group has room for two."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.figures = make(FakeFigures(), most_queued=2)
        store: Any = self.store
        numbers = iter(range(100))
        self.intake = Intake(store, self.figures, FakeClock(), lambda: f"task_{next(numbers):026}")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    await made.figures.read_kinds()
    writer = asyncio.ensure_future(made.intake.batcher.run())
    yield made
    writer.cancel()
    await asyncio.wait([writer])


async def test_what_is_begun_is_answered_when_it_is_written(site: Site) -> None:
    """With its position; then it waits in its group, and has no place of its own any more."""
    first, second = site.intake.begin(draft()), site.intake.begin(draft())
    assert first is not None
    assert second is not None
    with pytest.raises(Exhausted):
        site.intake.begin(draft())
    assert [(await one).queue_position for one in (first, second)] == [1, 2]
    assert site.figures.count_waiting("builtin") == 2
    with pytest.raises(Exhausted):
        site.intake.begin(draft())


async def test_who_leaves_before_the_batch_leaves_nothing(site: Site) -> None:
    """Neither a task nor, from the next batch on, a place that is taken."""
    site.store.gate.clear()
    under_way = site.intake.begin(draft())
    assert under_way is not None
    async with asyncio.timeout(20):
        await site.store.entered.wait()
    waiting = site.intake.begin(draft())
    assert waiting is not None
    waiting.cancel()
    site.store.gate.set()
    await under_way
    await _submitted_when_there_is_room(site)
    assert len(site.store.written) == 2


async def _submitted_when_there_is_room(site: Site) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await site.intake.submit(draft())
            except Exhausted:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_batch_that_fails_gives_its_places_back(site: Site) -> None:
    """Its callers hear why, and the next ones find room."""
    site.store.error = Unavailable("The database is away")
    for _ in range(3):
        begun = site.intake.begin(draft())
        assert begun is not None
        with pytest.raises(Unavailable):
            await begun


async def test_what_waits_for_more_than_its_batch_is_not_begun(site: Site) -> None:
    """A key is written down after the task, an unknown kind is looked for; what is wrong is refused at once."""
    assert site.intake.begin(draft(idempotency_key="k")) is None
    assert site.intake.begin(draft(kind="new")) is None
    with pytest.raises(Invalid):
        site.intake.begin(draft(payload=b"{"))
    assert [(await site.intake.submit(draft())).queue_position for _ in range(2)] == [1, 2]
