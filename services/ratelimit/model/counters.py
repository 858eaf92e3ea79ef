"""The three ways to count, each a small state that moves only when it is told the time.

Every counter knows how many units of its limit are taken (`level`), takes more (`add`), and says when it is empty again
(`reset_us`) and when so many units more will fit (`wait_us`). `store.lua` moves the same states by the same rules; the
contract suite holds both to it. Time may step back (a store's clock was set): a counter then keeps what was taken and
recovers within one window.
"""

from typing import Protocol

from services.ratelimit.model.limits import Algorithm, Limit


class Counter(Protocol):
    """What a decision needs of a counter. Times are µs since the epoch, amounts are units (see `Limit`)."""

    def level(self, limit: Limit, now_us: int) -> int:
        """Units that are taken, after forgetting what is over. Comes first, at the same instant as the rest."""

    def add(self, limit: Limit, now_us: int, units: int) -> None:
        """Takes units, whether they fit or not."""

    def reset_us(self, limit: Limit, now_us: int) -> int:
        """µs until nothing is taken any more."""

    def wait_us(self, limit: Limit, now_us: int, units: int) -> int:
        """µs until that many units fit, if it is known that they do not now and that they fit an empty counter."""

    def dump(self) -> tuple[int, ...]:
        """The state as the store keeps it."""


class FixedWindow:
    """A count and the beginning of its window; windows are aligned to the epoch."""

    __slots__ = ("start_us", "used")

    def __init__(self) -> None:
        self.start_us = 0
        self.used = 0

    def level(self, limit: Limit, now_us: int) -> int:
        start_us = now_us - now_us % limit.window_us
        if self.start_us < start_us:
            self.used = 0
        self.start_us = start_us
        return self.used

    def add(self, limit: Limit, now_us: int, units: int) -> None:
        del limit, now_us
        self.used += units

    def reset_us(self, limit: Limit, now_us: int) -> int:
        return limit.window_us - now_us % limit.window_us if self.used else 0

    def wait_us(self, limit: Limit, now_us: int, units: int) -> int:
        del units
        return limit.window_us - now_us % limit.window_us

    def dump(self) -> tuple[int, ...]:
        return self.start_us, self.used


class SlidingWindow:
    """A log of hits as (instant, amount), oldest first; a hit counts until one window after its instant.

    The instant is rounded up to the end of its `granularity_us`. With 1 µs that is an exact log; with more, a ring of
    buckets that counts the oldest one in full until it has wholly left, so it never lets too much pass either.
    """

    __slots__ = ("amounts", "stamps", "used")

    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.amounts: list[int] = []
        self.used = 0

    def level(self, limit: Limit, now_us: int) -> int:
        stamps = self.stamps
        if not stamps:
            return 0
        horizon_us = now_us - limit.window_us
        if stamps[-1] <= horizon_us:
            self._keep([], [])
        elif stamps[-1] >= now_us + limit.granularity_us:
            # Time stepped back. Whatever counts, counts from now: nothing extra passes, and a window later all is well.
            self._keep([_stamp(limit, now_us)], [self.used])
        elif stamps[0] <= horizon_us:
            gone = next(index for index, stamp in enumerate(stamps) if stamp > horizon_us)
            self._keep(stamps[gone:], self.amounts[gone:])
        return self.used

    def _keep(self, stamps: list[int], amounts: list[int]) -> None:
        self.stamps, self.amounts, self.used = stamps, amounts, sum(amounts)

    def add(self, limit: Limit, now_us: int, units: int) -> None:
        stamp = _stamp(limit, now_us)
        if self.stamps and self.stamps[-1] == stamp:
            self.amounts[-1] += units
        else:
            self.stamps.append(stamp)
            self.amounts.append(units)
        self.used += units

    def reset_us(self, limit: Limit, now_us: int) -> int:
        return self.stamps[-1] + limit.window_us - now_us if self.stamps else 0

    def wait_us(self, limit: Limit, now_us: int, units: int) -> int:
        must_go = self.used + units - limit.capacity
        for stamp, amount in zip(self.stamps, self.amounts, strict=True):
            must_go -= amount
            if must_go <= 0:
                return stamp + limit.window_us - now_us
        return limit.window_us

    def dump(self) -> tuple[int, ...]:
        """0, then each instant with the running total: what the store searches by halving."""
        state, total = [0], 0
        for stamp, amount in zip(self.stamps, self.amounts, strict=True):
            total += amount
            state += (stamp, total)
        return tuple(state)


class TokenBucket:
    """GCRA in its form as a leaky bucket (ITU-T I.371, continuous-state): what was taken drains at the limit's rate.

    The same decisions as with a theoretical arrival time, but in integers for every rate.
    """

    __slots__ = ("at_us", "taken")

    def __init__(self) -> None:
        self.at_us = 0
        self.taken = 0

    def level(self, limit: Limit, now_us: int) -> int:
        if now_us > self.at_us:
            self.taken = max(0, self.taken - (now_us - self.at_us) * limit.rate)
        self.at_us = now_us
        return self.taken

    def add(self, limit: Limit, now_us: int, units: int) -> None:
        del limit, now_us
        self.taken += units

    def reset_us(self, limit: Limit, now_us: int) -> int:
        del now_us
        return -(-self.taken // limit.rate)

    def wait_us(self, limit: Limit, now_us: int, units: int) -> int:
        del now_us
        return -(-(self.taken + units - limit.capacity) // limit.rate)

    def dump(self) -> tuple[int, ...]:
        return self.at_us, self.taken


def _stamp(limit: Limit, now_us: int) -> int:
    return now_us - now_us % limit.granularity_us + limit.granularity_us - 1


_COUNTERS: dict[Algorithm, type[FixedWindow] | type[SlidingWindow] | type[TokenBucket]] = {
    Algorithm.FIXED_WINDOW: FixedWindow,
    Algorithm.SLIDING_WINDOW: SlidingWindow,
    Algorithm.TOKEN_BUCKET: TokenBucket,
}


def new_counter(algorithm: Algorithm) -> Counter:
    """An empty counter."""
    return _COUNTERS[algorithm]()
