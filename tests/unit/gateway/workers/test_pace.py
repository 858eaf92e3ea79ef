"""The pace of one worker's frames: turns for others, and a bound on each second."""

import asyncio

import pytest

from services.gateway.workers.pace import Pace
from tests.support.clock import FakeClock
from tests.unit.gateway.workers.world import Service, Worker


def test_a_burst_lets_others_have_their_turn():
    """Every some dozens of frames, however few a second there are."""
    pauses = [Pace().take(1.0), *_taken(Pace(), 100, now=1.0)]
    assert pauses[0] is None
    assert pauses.count(0.0) >= 3
    assert {pause for pause in pauses if pause} == set()


def test_a_flood_waits_for_the_rest_of_the_second():
    """And from then on as much may come as before."""
    clock, pace = FakeClock(), Pace()
    assert not any(_taken(pace, 999, now=clock.monotonic()))
    clock.advance(0.25)
    long = [pause for pause in _taken(pace, 1001, now=clock.monotonic()) if pause]
    assert long == [pytest.approx(0.75)]
    clock.advance(long[0])
    assert not any(_taken(pace, 1000, now=clock.monotonic()))


def test_a_second_begins_with_its_first_frame():
    """Hundreds of frames a second, second after second, never wait."""
    clock, pace = FakeClock(), Pace()
    for _ in range(20):
        assert not any(_taken(pace, 900, now=clock.monotonic()))
        clock.advance(0.5)


async def test_others_run_while_a_socket_is_flooded():
    """What lies ready on one socket does not stop the loop for all."""
    service = Service()
    worker = await Worker(service).connect()
    await worker.register()
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(worker._said.qsize())
            await asyncio.sleep(0)

    for _ in range(1500):
        worker.say("pong")
    running = asyncio.ensure_future(other())
    async with asyncio.timeout(30):
        while worker._said.qsize():
            await asyncio.sleep(0)
    running.cancel()
    # Most of all turns were had while frames still waited.
    assert len([waiting for waiting in turns if 0 < waiting < 1500]) >= 20
    worker.leave()
    await worker.until_closed()


def _taken(pace: Pace, frames: int, *, now: float) -> list[float | None]:
    return [pace.take(now) for _ in range(frames)]
