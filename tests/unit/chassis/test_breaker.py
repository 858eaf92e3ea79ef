"""The circuit breaker, driven by a clock that stands still."""

import asyncio

import pytest

from chassis.breaker import Breaker
from chassis.errors import Invalid, Unavailable
from tests.support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker("store", clock, failure_threshold=3, recovery_seconds=30)


async def _fail(breaker: Breaker, error: BaseException) -> None:
    with pytest.raises(type(error)):
        async with breaker.guard():
            raise error


async def _open(breaker: Breaker) -> None:
    for _ in range(3):
        await _fail(breaker, Unavailable())


async def test_opens_after_consecutive_failures(breaker: Breaker):
    """Three failures in a row open it, and it says when to come back."""
    await _open(breaker)
    with pytest.raises(Unavailable) as refusal:
        async with breaker.guard():
            pytest.fail("an open breaker let a call through")
    assert (refusal.value.code, refusal.value.retry_after_seconds) == ("CIRCUIT_OPEN", 30)
    assert breaker.state == "open"


async def test_success_resets_the_count(breaker: Breaker):
    """Failures count only when nothing succeeds between them."""
    await _fail(breaker, Unavailable())
    await _fail(breaker, Unavailable())
    async with breaker.guard():
        pass
    await _fail(breaker, Unavailable())
    assert breaker.state == "closed"


async def test_the_callers_mistakes_do_not_count(breaker: Breaker):
    """Invalid requests say nothing about the health of what is called."""
    for _ in range(10):
        await _fail(breaker, Invalid())
    assert breaker.state == "closed"


async def test_half_open_lets_one_probe_through(breaker: Breaker, clock: FakeClock):
    """After the recovery time one call may try, and the others are refused until it has ended."""
    await _open(breaker)
    clock.advance(30)
    assert breaker.state == "half_open"
    async with breaker.guard():
        with pytest.raises(Unavailable):
            breaker.begin()
    assert breaker.state == "closed"


async def test_a_failed_probe_opens_it_again(breaker: Breaker, clock: FakeClock):
    """The probe's failure starts a new recovery time."""
    await _open(breaker)
    clock.advance(30)
    await _fail(breaker, Unavailable())
    assert breaker.state == "open"
    clock.advance(29.9)
    with pytest.raises(Unavailable):
        breaker.begin()


async def test_a_cancelled_probe_frees_its_place(breaker: Breaker, clock: FakeClock):
    """Cancellation tells nothing, so the next call may probe at once."""
    await _open(breaker)
    clock.advance(30)
    await _fail(breaker, asyncio.CancelledError())
    assert breaker.begin() is not None


async def test_a_probe_that_never_reports_loses_its_lease(breaker: Breaker, clock: FakeClock):
    """A lost probe does not wedge the breaker: its place is free after one more recovery time."""
    await _open(breaker)
    clock.advance(30)
    breaker.begin()
    clock.advance(30)
    assert breaker.begin() is not None


async def test_late_results_of_an_earlier_state_are_ignored(breaker: Breaker):
    """A call that began before it opened cannot close it."""
    early = breaker.begin()
    await _open(breaker)
    breaker.succeed(early)
    assert breaker.state == "open"
