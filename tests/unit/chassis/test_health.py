"""What a process says of itself."""

import pytest

from chassis.health import Health
from tests.support.clock import FakeClock


async def _fine() -> None:
    return


async def _broken() -> None:
    raise ConnectionRefusedError("no")


@pytest.fixture
def health() -> Health:
    return Health(FakeClock())


async def test_listeners_hear_changes_once(health: Health):
    """Readiness is told when it changes and only then."""
    heard: list[bool] = []

    async def listen(ready: bool) -> None:
        heard.append(ready)

    health.on_change(listen)
    for state in (True, True, False):
        await health.set_ready(state)
    assert heard == [True, False]


async def test_checks_keep_the_last_answer(health: Health):
    """Answers come from memory, with the reason of a failure."""
    health.add("good", _fine)
    health.add("bad", _broken)
    await health._ask("good", _fine)
    await health._ask("bad", _broken)
    good, bad = health.checks
    assert (good.ok, good.error) == (True, "")
    assert (bad.ok, bad.error) == (False, "ConnectionRefusedError: no")


async def test_a_broken_dependency_does_not_end_readiness(health: Health):
    """One store's hiccup must not take every instance out of rotation."""
    health.add("bad", _broken)
    await health.set_ready(True)
    await health._ask("bad", _broken)
    assert health.ready
