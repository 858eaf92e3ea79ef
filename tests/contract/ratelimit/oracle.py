"""What the algorithms mean, as slowly and plainly as it can be said: every hit ever admitted, and fractions.

Limits that only watch, and those that count what is denied, count as they say; holds have a deadline each.
"""

from fractions import Fraction

from services.ratelimit.model.errands import NO_HOLD, Action, Hold
from services.ratelimit.model.limits import Algorithm, Ask, Limit


class Oracle:
    """Admits by the definition of each limit; time must not step back."""

    def __init__(self) -> None:
        self._hits: dict[str, list[tuple[int, int | Fraction]]] = {}
        self._holds: dict[str, dict[Hold, int]] = {}

    def decide(self, ask: Ask, now_us: int) -> bool:
        """Whether an ask passes; for renewing, whether all was still held."""
        if ask.errand and ask.errand.action is not Action.TAKE:
            held = [self._run(key, limit, ask, now_us) for key, limit in zip(ask.keys, ask.limits, strict=True)]
            return all(held)
        fits = [self._fits(key, limit, ask, now_us) for key, limit in zip(ask.keys, ask.limits, strict=True)]
        passes = all(fit or limit.shadow for fit, limit in zip(fits, ask.limits, strict=True))
        for fit, key, limit in zip(fits, ask.keys, ask.limits, strict=True):
            if ask.cost and (limit.counts_denied or (passes and fit)):
                self._take(key, limit, ask, now_us)
        return passes

    def would(self, ask: Ask, now_us: int) -> bool:
        """Whether an ask would pass, without taking anything."""
        return all(self._fits(key, limit, ask, now_us) for key, limit in zip(ask.keys, ask.limits, strict=True))

    def forget(self, key: str, limit: Limit, now_us: int) -> None:
        """Drops what cannot matter from now on; a bucket's hits become one hit of what is left of them."""
        if limit.algorithm is Algorithm.TOKEN_BUCKET:
            self._hits[key] = [(now_us, self.taken(key, limit, now_us))]
        elif (hits := self._hits.get(key)) and hits[0][0] < now_us - 2 * limit.window_us:
            self._hits[key] = [hit for hit in hits if hit[0] >= now_us - 2 * limit.window_us]

    def _fits(self, key: str, limit: Limit, ask: Ask, now_us: int) -> bool:
        if limit.concurrent:
            others = set(self.held(key, now_us)) - {_hold(ask)}
            return len(others) < limit.limit or _hold(ask) in self.held(key, now_us)
        return self.taken(key, limit, now_us) + max(ask.cost, 1) <= limit.limit

    def _take(self, key: str, limit: Limit, ask: Ask, now_us: int) -> None:
        if limit.concurrent:
            self._holds.setdefault(key, {})[_hold(ask)] = now_us + limit.window_us
        else:
            self._hits.setdefault(key, []).append((now_us, ask.cost))

    def _run(self, key: str, limit: Limit, ask: Ask, now_us: int) -> bool:
        if not limit.concurrent:
            return True
        held = _hold(ask) in self.held(key, now_us)
        self._holds.get(key, {}).pop(_hold(ask), None)
        if held and ask.errand and ask.errand.action is Action.RENEW:
            self._take(key, limit, ask, now_us)
        return held or limit.shadow or bool(ask.errand and ask.errand.action is Action.RELEASE)

    def held(self, key: str, now_us: int) -> list[Hold]:
        return [hold for hold, until in self._holds.get(key, {}).items() if until > now_us]

    def taken(self, key: str, limit: Limit, now_us: int) -> Fraction:
        hits = self._hits.get(key, [])
        if limit.algorithm is Algorithm.FIXED_WINDOW:
            window = now_us // limit.window_us
            return Fraction(sum(cost for at, cost in hits if at // limit.window_us == window))
        if limit.algorithm is Algorithm.SLIDING_WINDOW:
            return Fraction(sum(cost for at, cost in hits if self._end_of_bucket(limit, at) > now_us - limit.window_us))
        return self._bucket(limit, hits, now_us)

    @staticmethod
    def _end_of_bucket(limit: Limit, at_us: int) -> int:
        return (at_us // limit.granularity_us + 1) * limit.granularity_us - 1

    @staticmethod
    def _bucket(limit: Limit, hits: list[tuple[int, int | Fraction]], now_us: int) -> Fraction:
        taken, before = Fraction(0), 0
        per_us = Fraction(limit.rate, limit.window_us)
        for at, cost in [*hits, (now_us, 0)]:
            taken = max(Fraction(0), taken - (at - before) * per_us) + cost
            before = at
        return taken


def _hold(ask: Ask) -> Hold:
    return ask.errand.hold if ask.errand else NO_HOLD
