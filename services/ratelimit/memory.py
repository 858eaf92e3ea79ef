"""Counters in this process: the shadow that decides while the store is away, and what is owed to the store then.

Its time is the store's, kept running by the monotonic clock, so setting this machine's clock changes no decision.
Memory is bounded: past the cap the counters unused for longest go, and with them what they had counted.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

from chassis.clock import Clock
from services.ratelimit.model.counters import Counter, new_counter
from services.ratelimit.model.decisions import ALLOWED, Verdict, decide
from services.ratelimit.model.limits import Algorithm, Ask, Limit
from services.ratelimit.ports import Debt


@lru_cache(maxsize=4096)
def _share(limit: Limit, among: int) -> Limit:
    return limit.share(among)


class Counters:
    """Counters by key, at most `cap` of them and never fewer than the `cap / 2` used last.

    Two generations instead of a list in order of use: a hit costs one look-up, and forgetting costs nothing.
    """

    def __init__(self, cap: int) -> None:
        self._half = max(1, cap // 2)
        self._young: dict[str, tuple[Counter, Limit]] = {}
        self._old: dict[str, tuple[Counter, Limit]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: str, limit: Limit) -> Counter:
        """The counter of a key, an empty one if there was none."""
        held = self._young.get(key)
        if held is None:
            held = self._old.pop(key, None) or (new_counter(limit.algorithm), limit)
            if len(self._young) >= self._half:
                self._old, self._young = self._young, {}
            self._young[key] = held
        return held[0]

    def decide(self, ask: Ask, now_us: int) -> Verdict:
        """Decides one ask and counts it if it passes."""
        return decide(ask, [self.get(key, limit) for key, limit in zip(ask.keys, ask.limits, strict=True)], now_us)

    def add(self, key: str, limit: Limit, now_us: int, cost: int) -> None:
        """Counts a cost whether it fits or not."""
        counter = self.get(key, limit)
        counter.level(limit, now_us)
        counter.add(limit, now_us, cost * limit.unit)

    def pop(self, key: str) -> tuple[Counter, Limit] | None:
        """Takes a counter out, None when it is not there."""
        return self._young.pop(key, None) or self._old.pop(key, None)

    def peek(self, key: str) -> tuple[Counter, Limit] | None:
        """A counter and its limit, without using it."""
        return self._young.get(key) or self._old.get(key)

    def __iter__(self) -> Iterator[str]:
        yield from (*self._old, *self._young)


class MemoryShadow:
    """What one instance has admitted, and what of it the store was not told.

    Args:
        instances: how many instances share the limits now, this one included.
        cap: how many counters are remembered, and how many debts.
    """

    def __init__(self, clock: Clock, instances: Callable[[], int], *, cap: int) -> None:
        self._clock = clock
        self._instances = instances
        self._counters = Counters(cap)
        self._debts = Counters(cap)
        # Debts that stand as they are: those that could not be told, and keys whose whole count is owed.
        self._returned: deque[Debt] = deque()
        self._whole: list[str] = []
        self._whole_at_least = False
        self._among = 1
        self._ahead_us = int(clock.now().timestamp() * 1_000_000) - self._monotonic_us()

    def _monotonic_us(self) -> int:
        return int(self._clock.monotonic() * 1_000_000)

    @property
    def now_us(self) -> int:
        """The store's time as far as it is known here; this machine's until the store has been heard."""
        return self._monotonic_us() + self._ahead_us

    def follow(self, store_now_us: int) -> None:
        self._ahead_us = store_now_us - self._monotonic_us()

    def record(self, asks: Sequence[Ask], verdicts: Sequence[Verdict]) -> None:
        among = self._among = max(1, self._instances())
        now_us = self.now_us
        for ask, verdict in zip(asks, verdicts, strict=True):
            if verdict[0] == ALLOWED and ask.cost:
                for key, limit in zip(ask.keys, ask.limits, strict=True):
                    self._counters.add(key, _share(limit, among), now_us, ask.cost)

    def decide(self, asks: Sequence[Ask]) -> list[Verdict]:
        among = self._among = max(1, self._instances())
        now_us = self.now_us
        return [
            self._counters.decide(Ask(keys, tuple(_share(limit, among) for limit in limits), cost), now_us)
            for keys, limits, cost in asks
        ]

    # -- debts ---------------------------------------------------------------------------------------------------

    def owe(self, asks: Sequence[Ask]) -> None:
        now_us = self.now_us
        for ask in asks:
            if ask.cost:
                for key, limit in zip(ask.keys, ask.limits, strict=True):
                    # Rounded as a share of one: a debt is a few buckets however long the store was away.
                    self._debts.add(key, _share(limit, 1), now_us, ask.cost)

    def owe_everything(self, *, at_least: bool) -> None:
        if not at_least:
            self._returned.clear()
        self._whole = list(self._counters)
        self._whole_at_least = at_least

    def put_back(self, debts: Sequence[Debt]) -> None:
        self._returned.extendleft(reversed(debts))

    def take_debts(self, most: int) -> list[Debt]:
        # One kind at a time: so no key is there twice, and sums are told before the floors that contain them.
        if self._returned:
            return self._take_returned(most)
        if self._whole_at_least and len(self._debts):
            return self._take_added(most)
        return self._take_whole(most) if self._whole else self._take_added(most)

    def _take_returned(self, most: int) -> list[Debt]:
        taken: dict[str, Debt] = {}
        while self._returned and len(taken) < most and self._returned[0].key not in taken:
            debt = self._returned.popleft()
            taken[debt.key] = debt
        return list(taken.values())

    def _take_added(self, most: int) -> list[Debt]:
        keys = list(islice(self._debts, most))
        return [debt for key in keys for debt in self._dump(key, self._debts.pop(key), 1, at_least=False)]

    def _take_whole(self, most: int) -> list[Debt]:
        taken: list[Debt] = []
        while self._whole and len(taken) < most:
            key = self._whole.pop()
            # What is owed of this key besides is part of its whole count.
            self._debts.pop(key)
            held = self._counters.peek(key)
            taken += self._dump(key, held, self._among, at_least=self._whole_at_least)
        self._whole_at_least = self._whole_at_least and bool(self._whole)
        return taken

    def _dump(self, key: str, held: tuple[Counter, Limit] | None, instances: int, *, at_least: bool) -> list[Debt]:
        """One counter as a debt; none if it has nothing left to say."""
        if held is None or not held[0].level(held[1], self.now_us):
            return []
        counter, limit = held
        state = counter.dump()
        if limit.algorithm is Algorithm.TOKEN_BUCKET:
            # Tokens of a share are dearer by the number of instances.
            state = (state[0], state[1] // instances)
        return [Debt(key, limit, state, at_least)]

    @property
    def owes(self) -> bool:
        """Whether the store has yet to be told something."""
        return bool(self._returned or self._whole or len(self._debts))
