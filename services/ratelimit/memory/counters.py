"""Counters by key, bounded: past the cap those unused for longest go, and with them what they had counted."""

from collections.abc import Callable, Iterator
from functools import lru_cache

from services.ratelimit.model.counters import Counter, Slots, new_counter
from services.ratelimit.model.decisions import Verdict, decide
from services.ratelimit.model.errands import NO_HOLD, Hold
from services.ratelimit.model.limits import Algorithm, Ask, Limit

_GONE_AT_ONCE = 2


@lru_cache(maxsize=4096)
def share_of(limit: Limit, among: int) -> Limit:
    """What one of so many instances may let pass."""
    return limit.share(among)


class Counters:
    """Counters by key, at most `cap` of them and never fewer than the `cap / 2` used last.

    Two generations instead of a list in order of use: a hit costs one look-up. What is forgotten goes a few at a time:
    all at once would stop everybody for milliseconds.
    """

    def __init__(self, cap: int, make: Callable[[Algorithm], Counter] = new_counter) -> None:
        self.cap = cap
        self._make = make
        self._half = max(1, cap // 2)
        self._young: dict[str, tuple[Counter, Limit]] = {}
        self._old: dict[str, tuple[Counter, Limit]] = {}
        self._forgotten: dict[str, tuple[Counter, Limit]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: str, limit: Limit) -> Counter:
        """The counter of a key, an empty one if there was none."""
        held = self._young.get(key)
        if held is None:
            held = self._old.pop(key, None) or (self._make(limit.algorithm), limit)
            if len(self._young) >= self._half:
                self._forgotten, self._old, self._young = self._old, self._young, {}
            self._young[key] = held
            # All are gone before the next ones are forgotten.
            for _ in range(min(_GONE_AT_ONCE, len(self._forgotten))):
                self._forgotten.popitem()
        return held[0]

    def decide(self, ask: Ask, now_us: int) -> Verdict:
        """Decides one ask and counts it if it passes."""
        return decide(ask, [self.get(key, limit) for key, limit in zip(ask.keys, ask.limits, strict=True)], now_us)

    def add(self, key: str, limit: Limit, now_us: int, cost: int, hold: Hold = NO_HOLD) -> None:
        """Counts a cost whether it fits or not."""
        held = self._young.get(key)
        counter = self.get(key, limit) if held is None else held[0]
        counter.hit(limit, now_us, cost * limit.unit, hold)

    def release(self, ask: Ask) -> None:
        """Ends a hold where it is known."""
        for key in ask.keys:
            held = self.peek(key)
            if held is not None and isinstance(held[0], Slots) and ask.errand is not None:
                held[0].release(ask.errand.hold)

    def pop(self, key: str) -> tuple[Counter, Limit] | None:
        """Takes a counter out, None when it is not there."""
        return self._young.pop(key, None) or self._old.pop(key, None)

    def peek(self, key: str) -> tuple[Counter, Limit] | None:
        """A counter and its limit, without using it."""
        return self._young.get(key) or self._old.get(key)

    def __iter__(self) -> Iterator[str]:
        yield from (*self._old, *self._young)
