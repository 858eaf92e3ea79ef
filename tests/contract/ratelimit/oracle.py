"""What the algorithms mean, as slowly and plainly as it can be said: every hit ever admitted, and fractions."""

from fractions import Fraction

from services.ratelimit.model.limits import Algorithm, Ask, Limit


class Oracle:
    """Admits by the definition of each limit; time must not step back."""

    def __init__(self) -> None:
        self._hits: dict[str, list[tuple[int, int]]] = {}

    def decide(self, ask: Ask, now_us: int) -> bool:
        fits = all(
            self.taken(key, limit, now_us) + max(ask.cost, 1) <= limit.limit
            for key, limit in zip(ask.keys, ask.limits, strict=True)
        )
        if fits and ask.cost:
            for key in ask.keys:
                self._hits.setdefault(key, []).append((now_us, ask.cost))
        return fits

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
    def _bucket(limit: Limit, hits: list[tuple[int, int]], now_us: int) -> Fraction:
        taken, before = Fraction(0), 0
        per_us = Fraction(limit.rate, limit.window_us)
        for at, cost in [*hits, (now_us, 0)]:
            taken = max(Fraction(0), taken - (at - before) * per_us) + cost
            before = at
        return taken
