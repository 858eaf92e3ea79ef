"""The decision itself: compute under every limit first, then take from all or from none."""

from collections.abc import Sequence
from typing import NamedTuple

from services.ratelimit.model.counters import UNKNOWN, Counter, Slots
from services.ratelimit.model.errands import NO_HOLD, Action, Errand
from services.ratelimit.model.limits import Ask, Limit

ALLOWED = -1
NEVER = -2

_MORE_THAN_ALL = 2.0


class Verdict(NamedTuple):
    """What counters say to one ask; a named tuple because one is made for every decision.

    Args:
        wait_us: `ALLOWED`, or µs until the same ask would pass, or `NEVER`: its cost exceeds a limit, or `UNKNOWN`: it
            waits for others to let go. For renewing, `NEVER` says that something is not held any more.
        slowest: when denied, the index of the violated limit with the longest wait.
        levels: for each limit, flat: what would still pass after this decision, and µs until all of it would. Where
            denied requests count, the first is below 0 by as much as was counted beyond the limit.
        violated: a bit for each limit that the ask does not fit, shadows included; the first limit is the lowest bit.
    """

    wait_us: int
    slowest: int
    levels: tuple[int, ...]
    violated: int = 0

    @property
    def allowed(self) -> bool:
        return self.wait_us == ALLOWED


class Decision(NamedTuple):
    """The answer to one request, by the rules of that generation."""

    ask: Ask
    verdict: Verdict
    degraded: bool
    generation: int = 0


def tightest(ask: Ask, verdict: Verdict) -> int:
    """Index of the limit to show first: the violated one with the longest wait, else the smallest share remaining.

    A shadow is shown to nobody; the index means nothing when there is nothing else.
    """
    if verdict.wait_us != ALLOWED:
        return verdict.slowest
    if len(ask.limits) < 2:  # noqa: PLR2004 - nothing to compare
        return 0
    shares = [
        _MORE_THAN_ALL if limit.shadow else verdict.levels[2 * index] / limit.limit
        for index, limit in enumerate(ask.limits)
    ]
    return shares.index(min(shares))


def decide(ask: Ask, counters: Sequence[Counter], now_us: int) -> Verdict:
    """Decides one ask and takes its cost from all counters if it passes.

    A cost of 0 asks whether 1 would pass, one below 0 whether as much above would; both take nothing.
    """
    errand = ask.errand
    if errand is not None and errand.action is not Action.TAKE:
        return _run(errand, ask, counters, now_us)
    hold = errand.hold if errand is not None else NO_HOLD
    needed = abs(ask.cost) or 1
    wait_us, slowest, violated = ALLOWED, 0, 0
    for index, (limit, counter) in enumerate(zip(ask.limits, counters, strict=True)):
        level, units = counter.level(limit, now_us), counter.wanted(limit, needed, hold)
        if level + units > limit.capacity:
            violated |= 1 << index
            if not limit.shadow:
                its_wait_us = NEVER if units > limit.capacity else counter.wait_us(limit, now_us, units)
                if _rank(its_wait_us) > _rank(wait_us):
                    wait_us, slowest = its_wait_us, index
    verdict = Verdict(wait_us, slowest, (), violated)
    for index, (limit, counter) in enumerate(zip(ask.limits, counters, strict=True)):
        if ask.cost > 0 and takes(limit, index, verdict):
            counter.add(limit, now_us, ask.cost * limit.unit, hold)
    return verdict._replace(levels=_levels(ask, counters, now_us))


def takes(limit: Limit, index: int, verdict: Verdict) -> bool:
    """Whether what was decided so counts under one of its limits."""
    return limit.counts_denied or (verdict.wait_us == ALLOWED and not verdict.violated >> index & 1)


def _rank(wait_us: int) -> float:
    return {NEVER: float("inf"), UNKNOWN: 2.0**62}.get(wait_us, wait_us)


def _levels(ask: Ask, counters: Sequence[Counter], now_us: int) -> tuple[int, ...]:
    levels: list[int] = []
    for limit, counter in zip(ask.limits, counters, strict=True):
        free = (limit.capacity - counter.level(limit, now_us)) // limit.unit
        levels += (free if limit.tells_excess else max(0, free), counter.reset_us(limit, now_us))
    return tuple(levels)


def _run(errand: Errand, ask: Ask, counters: Sequence[Counter], now_us: int) -> Verdict:
    """Gives back, renews or releases; what is not held is passed over and marked when it is to be renewed."""
    lost = 0
    for index, (limit, counter) in enumerate(zip(ask.limits, counters, strict=True)):
        counter.level(limit, now_us)
        if errand.action is Action.REFUND:
            counter.give_back(limit, now_us, ask.cost * limit.unit, errand.age_us)
        elif isinstance(counter, Slots):
            if errand.action is Action.RELEASE:
                counter.release(errand.hold)
            elif errand.hold in counter.deadlines:
                counter.add(limit, now_us, 1, errand.hold)
            elif not limit.shadow:
                lost |= 1 << index
    return Verdict(NEVER if lost else ALLOWED, 0, _levels(ask, counters, now_us), lost)
