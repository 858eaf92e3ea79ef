"""A frame waits for those who are on their way, and for nobody else."""

import asyncio

import pytest

from services.ratelimit.store import lull
from services.ratelimit.store.lull import Lull


class Frames:
    """What waits, and how many of it each frame took along."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.sizes: list[int] = []
        self.lull = Lull(self.waiting, self.leave)

    def join(self) -> None:
        self.waiting.append(1)
        if not self.lull.awaited:
            self.lull.begin(asyncio.get_running_loop())

    def leave(self) -> None:
        self.sizes.append(len(self.waiting))
        self.waiting.clear()

    async def left(self, count: int) -> None:
        """Waits until so many frames have left."""
        async with asyncio.timeout(30):
            while len(self.sizes) < count:
                await asyncio.sleep(0)


@pytest.fixture
async def frames() -> Frames:
    return Frames()


@pytest.fixture
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns alone decide: on a busy machine a few of them may take longer than a frame ever waits."""
    monkeypatch.setattr(lull, "_LONGEST_SECONDS", 60.0)


async def test_who_comes_alone_leaves_alone(frames: Frames):
    """Nobody has to come for a frame to leave, again and again."""
    for count in (1, 2, 3):
        frames.join()
        await frames.left(count)
    assert frames.sizes == [1, 1, 1]
    assert not frames.lull.awaited


@pytest.mark.usefixtures("no_hurry")
async def test_who_comes_a_few_turns_later_goes_along(frames: Frames):
    """Each newcomer is waited for anew."""
    for _ in range(5):
        frames.join()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert frames.sizes == []
    await frames.left(1)
    assert frames.sizes == [5]


async def test_those_who_keep_coming_do_not_hold_up_the_first(frames: Frames):
    """One more each turn: the frame leaves when it is full, or after its longest time."""
    async with asyncio.timeout(30):
        while not frames.sizes:
            frames.join()
            await asyncio.sleep(0)
    assert 1 <= frames.sizes[0] <= 64


async def test_nothing_leaves_within_the_call_that_joins(frames: Frames):
    """Whoever joins can rely on being told later, also when the frame is full."""
    for _ in range(64):
        frames.join()
    assert frames.sizes == []
    await frames.left(1)
    assert frames.sizes == [64]


@pytest.mark.usefixtures("no_hurry")
async def test_the_last_frame_tells_how_long_the_next_waits(frames: Frames):
    """After a frame of many, turns without anybody are waited through that a caller who came alone is not kept for."""

    async def turns_until_it_leaves() -> int:
        before, turns = len(frames.sizes), 0
        frames.join()
        while len(frames.sizes) == before:
            turns += 1
            await asyncio.sleep(0)
        return turns

    alone = await turns_until_it_leaves()
    for _ in range(8):
        frames.join()
    await frames.left(2)
    after_many = await turns_until_it_leaves()
    assert alone < after_many
    assert await turns_until_it_leaves() <= alone + 1
