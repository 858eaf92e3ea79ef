"""The ways to count, each a small state that moves only when it is told the time.

Every counter knows how many units of its limit are taken (`level`), takes more (`add`), and says when it is empty again
(`reset_us`) and when so many units more will fit (`wait_us`). `store.lua` moves the same states by the same rules; the
contract suite holds both to it. Time may step back (a store's clock was set): a counter then keeps what was taken and
recovers within one window.

A refund never makes room for more than would fit had its part never been taken: once its own hit is over it does not
reach those of others, and what a bucket has regained meanwhile is not given again.
"""

from typing import Protocol

from services.ratelimit.model.errands import NO_HOLD, Hold
from services.ratelimit.model.limits import Algorithm, Limit

# In place of a wait: places are free again when others let go of them, and nobody knows when.
UNKNOWN = -3


class Counter(Protocol):
    """What a decision needs of a counter. Times are µs since the epoch, amounts are units (see `Limit`)."""

    def level(self, limit: Limit, now_us: int) -> int:
        """Units that are taken, after forgetting what is over. Comes first, at the same instant as the rest."""

    def wanted(self, limit: Limit, cost: int, hold: Hold) -> int:
        """Units that a cost needs; below 0 when it fits whatever is taken."""

    def add(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        """Takes units, whether they fit or not."""

    def hit(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        """`level` and `add` in one: most counters are only ever told what the store has admitted."""

    def give_back(self, limit: Limit, now_us: int, units: int, age_us: int) -> None:
        """Units that were taken so long ago are as if they had not been; at most what is taken."""

    def reset_us(self, limit: Limit, now_us: int) -> int:
        """µs until nothing is taken any more."""

    def wait_us(self, limit: Limit, now_us: int, units: int) -> int:
        """µs until that many units fit, if it is known that they do not now and that they fit an empty counter."""

    def dump(self) -> tuple[int, ...]:
        """The state as the store keeps it."""


class _Amounts:
    """Counters that count what requests cost."""

    __slots__ = ()

    def wanted(self, limit: Limit, cost: int, hold: Hold) -> int:
        del hold
        return cost * limit.unit


class FixedWindow(_Amounts):
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

    def add(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        del limit, now_us, hold
        self.used += units

    def hit(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        del hold
        start_us = now_us - now_us % limit.window_us
        self.used = units if self.start_us < start_us else self.used + units
        self.start_us = start_us

    def give_back(self, limit: Limit, now_us: int, units: int, age_us: int) -> None:
        del limit
        if now_us - age_us >= self.start_us:
            self.used -= min(units, self.used)

    def reset_us(self, limit: Limit, now_us: int) -> int:
        return limit.window_us - now_us % limit.window_us if self.used else 0

    def wait_us(self, limit: Limit, now_us: int, units: int) -> int:
        del units
        return limit.window_us - now_us % limit.window_us

    def dump(self) -> tuple[int, ...]:
        return self.start_us, self.used


class SlidingWindow(_Amounts):
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

    def add(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        del hold
        stamp = _stamp(limit, now_us)
        if self.stamps and self.stamps[-1] == stamp:
            self.amounts[-1] += units
        else:
            self.stamps.append(stamp)
            self.amounts.append(units)
        self.used += units

    def hit(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        stamps, grain_us = self.stamps, limit.granularity_us
        if stamps and stamps[0] > now_us - limit.window_us and stamps[-1] == now_us - now_us % grain_us + grain_us - 1:
            self.amounts[-1] += units
            self.used += units
        else:
            self.level(limit, now_us)
            self.add(limit, now_us, units, hold)

    def give_back(self, limit: Limit, now_us: int, units: int, age_us: int) -> None:
        """From the oldest hits, which are over first: whichever it was, what counts at any later instant is enough."""
        del now_us
        if age_us >= limit.window_us:
            return
        rest = min(units, self.used)
        self.used -= rest
        gone = 0
        while rest and self.amounts[gone] <= rest:
            rest -= self.amounts[gone]
            gone += 1
        self.stamps, self.amounts = self.stamps[gone:], self.amounts[gone:]
        if rest:
            self.amounts[0] -= rest

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


class TokenBucket(_Amounts):
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

    def add(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        del limit, now_us, hold
        self.taken += units

    def hit(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        self.level(limit, now_us)
        self.add(limit, now_us, units, hold)

    def give_back(self, limit: Limit, now_us: int, units: int, age_us: int) -> None:
        del now_us
        self.taken -= min(max(0, units - age_us * limit.rate), self.taken)

    def reset_us(self, limit: Limit, now_us: int) -> int:
        del now_us
        return -(-self.taken // limit.rate)

    def wait_us(self, limit: Limit, now_us: int, units: int) -> int:
        del now_us
        return -(-(self.taken + units - limit.capacity) // limit.rate)

    def dump(self) -> tuple[int, ...]:
        return self.at_us, self.taken


class Slots:
    """Who is held until when, in the order of their deadlines. A request takes one place at any cost."""

    __slots__ = ("deadlines",)

    def __init__(self) -> None:
        self.deadlines: dict[Hold, int] = {}

    def level(self, limit: Limit, now_us: int) -> int:
        deadlines = self.deadlines
        if not deadlines:
            return 0
        last_us = now_us + limit.window_us
        if next(iter(deadlines.values())) <= now_us or next(reversed(deadlines.values())) > last_us:
            # A deadline that is too far away is from before time stepped back, or the lease became shorter.
            self.deadlines = {hold: min(until, last_us) for hold, until in deadlines.items() if until > now_us}
        return len(self.deadlines)

    def wanted(self, limit: Limit, cost: int, hold: Hold) -> int:
        del limit, cost
        return -len(self.deadlines) if hold in self.deadlines else 1

    def add(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        del units
        self.deadlines.pop(hold, None)
        self.deadlines[hold] = now_us + limit.window_us

    def hit(self, limit: Limit, now_us: int, units: int, hold: Hold = NO_HOLD) -> None:
        self.level(limit, now_us)
        self.add(limit, now_us, units, hold)

    def release(self, hold: Hold) -> None:
        """Nothing happens when it is not held."""
        self.deadlines.pop(hold, None)

    def give_back(self, limit: Limit, now_us: int, units: int, age_us: int) -> None:
        """A place comes back when it is released."""

    def reset_us(self, limit: Limit, now_us: int) -> int:
        del limit
        return next(reversed(self.deadlines.values())) - now_us if self.deadlines else 0

    def wait_us(self, limit: Limit, now_us: int, units: int) -> int:
        del limit, now_us, units
        return UNKNOWN

    def dump(self) -> tuple[int, ...]:
        """Deadline and both halves of the hold, for each."""
        return tuple(number for hold, until in self.deadlines.items() for number in (until, *hold))


def _stamp(limit: Limit, now_us: int) -> int:
    return now_us - now_us % limit.granularity_us + limit.granularity_us - 1


_COUNTERS: dict[Algorithm, type[FixedWindow] | type[SlidingWindow] | type[TokenBucket] | type[Slots]] = {
    Algorithm.FIXED_WINDOW: FixedWindow,
    Algorithm.SLIDING_WINDOW: SlidingWindow,
    Algorithm.TOKEN_BUCKET: TokenBucket,
    Algorithm.CONCURRENCY: Slots,
}


def new_counter(algorithm: Algorithm) -> Counter:
    """An empty counter."""
    return _COUNTERS[algorithm]()
