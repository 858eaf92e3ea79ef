"""Calls that arrive together are answered together, and none is worse off for it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from chassis.errors import Conflict
from chassis.rpc.gathering import Gathering


class Answering:
    """Answers with the request, from 100 up with an error, and waits first while it is `held`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, requests: Sequence[int]) -> list[Any]:
        self.batches.append(list(requests))
        await self.free.wait()
        return [Conflict(str(request)) if request >= 100 else request for request in requests]


@pytest.fixture
async def answering() -> Answering:
    return Answering()


async def test_calls_of_one_moment_share_a_batch(answering: Answering):
    """All that join before anything is answered are answered at once, each with its own."""
    gathering = Gathering(answering)
    assert await asyncio.gather(*(gathering.join(n) for n in range(10))) == list(range(10))
    assert answering.batches == [list(range(10))]


async def test_a_call_that_comes_a_turn_later_goes_along(answering: Answering):
    """A batch waits for those who are on their way."""
    gathering = Gathering(answering)
    first = gathering.join(1)
    await asyncio.sleep(0)
    await asyncio.gather(first, gathering.join(2))
    assert answering.batches == [[1, 2]]


async def test_a_call_alone_is_answered(answering: Answering):
    """Nobody has to come for a call to be answered, again and again."""
    gathering = Gathering(answering)
    assert [await gathering.join(n) for n in range(3)] == [0, 1, 2]
    assert answering.batches == [[0], [1], [2]]


async def test_each_gets_its_own_error(answering: Answering):
    """An error is of its call alone."""
    gathering = Gathering(answering)
    good, bad = gathering.join(1), gathering.join(100)
    assert await good == 1
    with pytest.raises(Conflict, match="100"):
        await bad


async def test_a_full_batch_waits_for_nobody(answering: Answering):
    """Those who keep coming, one each turn, do not hold up the first."""
    gathering = Gathering(answering)
    calls = []
    while not answering.batches:
        calls.append(gathering.join(1))
        assert len(calls) < 100, "it never left"
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert len(answering.batches[0]) <= 64


async def test_a_call_given_up_is_not_made(answering: Answering):
    """What nobody waits for any more is left out, and a batch of nobody is none."""
    gathering = Gathering(answering)
    gathering.join(1).cancel()
    for _ in range(200):
        await asyncio.sleep(0)
    kept, given_up = gathering.join(2), gathering.join(3)
    given_up.cancel()
    assert await kept == 2
    assert answering.batches == [[2]]


async def test_a_call_given_up_under_way_harms_no_other(answering: Answering):
    """The others of its batch get their answers."""
    answering.free.clear()
    gathering = Gathering(answering)
    given_up, kept = gathering.join(1), gathering.join(2)
    async with asyncio.timeout(5):
        while not answering.batches:
            await asyncio.sleep(0)
    given_up.cancel()
    answering.free.set()
    assert await kept == 2


async def test_a_slow_batch_holds_up_no_other(answering: Answering):
    """Who comes while a batch is under way is answered before it."""
    answering.free.clear()
    gathering = Gathering(answering)
    slow = gathering.join(1)
    async with asyncio.timeout(5):
        while not answering.batches:
            await asyncio.sleep(0)
        later = gathering.join(2)
        while len(answering.batches) < 2:
            await asyncio.sleep(0)
    answering.free.set()
    assert (await later, await slow) == (2, 1)
