"""The decision itself: compute under every limit first, then take from all or from none."""

from collections.abc import Sequence
from typing import NamedTuple

from services.ratelimit.model.counters import Counter
from services.ratelimit.model.limits import Ask

ALLOWED = -1
NEVER = -2


class Verdict(NamedTuple):
    """What counters say to one ask; a named tuple because one is made for every decision.

    Args:
        wait_us: `ALLOWED`, or µs until the same ask would pass, or `NEVER`: its cost exceeds a limit.
        slowest: when denied, the index of the violated limit with the longest wait.
        levels: for each limit, flat: what would still pass after this decision, and µs until all of it would.
    """

    wait_us: int
    slowest: int
    levels: tuple[int, ...]

    @property
    def allowed(self) -> bool:
        return self.wait_us == ALLOWED


class Decision(NamedTuple):
    """The answer to one request."""

    ask: Ask
    verdict: Verdict
    degraded: bool


def tightest(ask: Ask, verdict: Verdict) -> int:
    """Index of the limit to show first: the violated one with the longest wait, else the smallest share remaining."""
    if verdict.wait_us != ALLOWED:
        return verdict.slowest
    if len(ask.limits) < 2:  # noqa: PLR2004 - nothing to compare
        return 0
    shares = [verdict.levels[2 * index] / limit.limit for index, limit in enumerate(ask.limits)]
    return shares.index(min(shares))


def decide(ask: Ask, counters: Sequence[Counter], now_us: int) -> Verdict:
    """Decides one ask and takes its cost from all counters if it passes. A cost of 0 asks whether 1 would pass."""
    needed = ask.cost or 1
    wait_us, slowest = ALLOWED, 0
    for index, (limit, counter) in enumerate(zip(ask.limits, counters, strict=True)):
        units = needed * limit.unit
        if counter.level(limit, now_us) + units > limit.capacity and wait_us != NEVER:
            its_wait_us = NEVER if units > limit.capacity else counter.wait_us(limit, now_us, units)
            if its_wait_us == NEVER or its_wait_us > wait_us:
                wait_us, slowest = its_wait_us, index
    levels: list[int] = []
    for limit, counter in zip(ask.limits, counters, strict=True):
        if wait_us == ALLOWED and ask.cost:
            counter.add(limit, now_us, ask.cost * limit.unit)
        free = max(0, limit.capacity - counter.level(limit, now_us)) // limit.unit
        levels += (free, counter.reset_us(limit, now_us))
    return Verdict(wait_us, slowest, tuple(levels))
