"""Of which size the frames are that one call becomes."""

from collections.abc import Sequence

import pytest

from chassis.clock import SystemClock
from services.ratelimit.memory import MemoryShadow
from services.ratelimit.model.errands import Action, Errand
from services.ratelimit.model.limits import Algorithm, Ask, limit_of
from services.ratelimit.store import RedisStore

LIMIT = limit_of(rule="one", algorithm=Algorithm.FIXED_WINDOW, per=("user",), limit=9, window_us=1_000_000)


def asks(count: int, keys: int, errand: Errand | None = None) -> Sequence[Ask]:
    return [Ask(("key",) * keys, (LIMIT,) * keys, 1, errand)] * count


def sizes(found: Sequence[Ask]) -> list[int]:
    store = RedisStore("redis://nowhere", MemoryShadow(SystemClock(), lambda: 1, cap=9), deadline_seconds=1)
    shares = store.shares(found)
    if shares is None:
        return [len(found)]
    assert [index for _, indexes in shares for index in indexes] == list(range(len(found)))
    assert {one for one, _ in shares} == {store}
    return [len(indexes) for _, indexes in shares]


@pytest.mark.parametrize(
    ("count", "keys", "expected"),
    [(1, 1, [1]), (64, 8, [64]), (256, 1, [256]), (257, 1, [128, 129]), (1024, 1, [256] * 4), (128, 8, [64, 64])],
)
def test_a_large_call_becomes_frames_of_one_size(count: int, keys: int, expected: list[int]) -> None:
    """None is larger than Redis decides well within the deadline, and none is a small rest."""
    assert sizes(asks(count, keys)) == expected


@pytest.mark.parametrize("action", [Action.RELEASE, Action.REFUND])
def test_what_gives_back_goes_as_one(action: Action) -> None:
    """So that it is ahead of what was asked after it."""
    assert sizes(asks(1000, 1, Errand(action))) == [1000]
