"""Micro-batches: what arrives meanwhile is the next batch, and every caller hears what became of its own item."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from chassis.errors import Conflict, MeshError, Unavailable
from services.tasks.operations.batches import Batcher


class Writer:
    """Doubles numbers, batch by batch, when the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def write(self, items: Sequence[int]) -> list[int | MeshError]:
        self.batches.append(list(items))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [Conflict("odd") if item % 2 else item * 2 for item in items]


@asynccontextmanager
async def running(batcher: Batcher[int, int], count: int = 1) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(batcher.run()) for _ in range(count)]
    await asyncio.sleep(0)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_calls_that_arrive_during_a_write_form_the_next_batch() -> None:
    """The first goes alone and at once, the others share one commit."""
    writer = Writer()
    batcher = Batcher(writer.write, pace_seconds=0)
    async with running(batcher):
        writer.gate.clear()
        first = batcher.put(2)
        while not writer.batches:
            await asyncio.sleep(0)
        others = [batcher.put(number) for number in (4, 6, 8)]
        writer.gate.set()
        assert await asyncio.gather(first, *others) == [4, 8, 12, 16]
    assert writer.batches == [[2], [4, 6, 8]]


async def test_each_item_has_its_own_answer() -> None:
    """An error is its item's alone."""
    writer = Writer()
    batcher = Batcher(writer.write, pace_seconds=0)
    async with running(batcher):
        answers = await asyncio.gather(batcher.put(1), batcher.put(2), return_exceptions=True)
    assert isinstance(answers[0], Conflict)
    assert answers[1] == 4


@pytest.mark.parametrize("error", [Unavailable(code="DATABASE_ERROR"), ValueError("a defect")])
async def test_a_failed_write_is_told_to_all_and_the_next_one_works(error: Exception) -> None:
    """Nobody waits for ever, and the batcher goes on."""
    writer = Writer()
    writer.error = error
    batcher = Batcher(writer.write, pace_seconds=0)
    async with running(batcher):
        answers = await asyncio.gather(batcher.put(2), batcher.put(4), return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(error)] * 2
        writer.error = None
        assert await batcher.put(6) == 12


async def test_batches_are_bounded_and_a_second_writer_takes_full_ones() -> None:
    """While the first writes, the second begins only with a full batch."""
    writer = Writer()
    batcher = Batcher(writer.write, most_rows=2, pace_seconds=0)
    async with running(batcher, 2):
        writer.gate.clear()
        futures = [batcher.put(2)]
        while not writer.batches:
            await asyncio.sleep(0)
        futures += [batcher.put(4)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert writer.batches == [[2]]
        futures += [batcher.put(6), batcher.put(8)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert writer.batches == [[2], [4, 6]]
        writer.gate.set()
        assert await asyncio.gather(*futures) == [4, 8, 12, 16]


async def test_whoever_left_before_the_write_is_not_written() -> None:
    """A cancelled call that still waits has no effect."""
    writer = Writer()
    batcher = Batcher(writer.write, pace_seconds=0)
    gone, staying = batcher.put(2), batcher.put(4)
    gone.cancel()
    async with running(batcher):
        assert await staying == 8
    assert writer.batches == [[4]]


async def test_too_many_waiting_are_refused() -> None:
    """The bound is told at once, and what waits already is written."""
    writer = Writer()
    batcher = Batcher(writer.write, most_waiting=2, pace_seconds=0)
    futures = [batcher.put(2), batcher.put(4)]
    with pytest.raises(Unavailable) as caught:
        batcher.put(6)
    assert caught.value.code == "OVERLOADED"
    async with running(batcher):
        assert await asyncio.gather(*futures) == [4, 8]


async def test_what_waits_at_the_end_is_refused() -> None:
    """Calls in the middle of a write and before it hear that the service goes away."""
    writer = Writer()
    batcher = Batcher(writer.write, most_rows=1, pace_seconds=0)
    async with running(batcher):
        writer.gate.clear()
        futures = [batcher.put(2), batcher.put(4)]
        while not writer.batches:
            await asyncio.sleep(0)
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
