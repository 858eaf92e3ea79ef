"""What the store must be told when it is back: told once, and rather too much than too little."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from services.ratelimit.memory.counters import Counters, share_of
from services.ratelimit.model.counters import Counter, TokenBucket, new_counter
from services.ratelimit.model.errands import Action, Errand
from services.ratelimit.model.limits import Algorithm, Ask, Limit
from services.ratelimit.ports import Debt


def is_refund(ask: Ask) -> bool:
    """Whether something is given back."""
    return ask.errand is not None and ask.errand.action is Action.REFUND


class _OwedBucket(TokenBucket):
    """What a bucket is owed: drains by its share, for other instances have debts too, and not before the store's own
    bucket is surely empty, for that one drains meanwhile. So too little may pass for a while, never too much.
    """

    __slots__ = ("_among", "_from_us")

    def __init__(self, among: int) -> None:
        super().__init__()
        self._among = among
        self._from_us = 0

    def level(self, limit: Limit, now_us: int) -> int:
        self._from_us = self._from_us or now_us + -(-limit.capacity // limit.rate)
        drained_us = now_us - max(self.at_us, self._from_us)
        if drained_us > 0:
            self.taken = max(0, self.taken - drained_us * limit.rate // self._among)
        self.at_us = now_us
        return self.taken


class Debts:
    """What one instance has admitted and a store was not told.

    Args:
        counters: all that the instance has admitted.
        errands: what it gave back or released without the store.
        among: how many instances share the limits of `counters`.
    """

    def __init__(
        self, counters: Counters, errands: deque[tuple[Ask, int]], now_us: Callable[[], int], among: Callable[[], int]
    ) -> None:
        self._counters = counters
        self._errands = errands
        self._now_us = now_us
        self._among = among
        self._debts = Counters(counters.cap, self._owed)
        # Debts that stand as they are: those that could not be told, and keys whose whole count is owed.
        self._returned: deque[Debt] = deque()
        self._whole: list[str] = []

    def _owed(self, algorithm: Algorithm) -> Counter:
        return _OwedBucket(self._among()) if algorithm is Algorithm.TOKEN_BUCKET else new_counter(algorithm)

    @property
    def shared(self) -> bool:
        """Whether other instances have debts as well."""
        return self._among() > 1

    def owe(self, asks: Sequence[Ask]) -> None:
        now_us = self._now_us()
        for ask in asks:
            errand = ask.errand or Errand(Action.TAKE)
            if errand.action is Action.REFUND:
                self._owe_refund(ask, errand, now_us)
            elif errand.action is Action.RELEASE:
                self._errands.append((ask, now_us))
                self._debts.release(ask)
            elif ask.cost > 0 or errand.action is Action.RENEW:
                for key, limit in zip(ask.keys, ask.limits, strict=True):
                    # Rounded as a share of one: a debt is a few buckets however long the store was away.
                    self._debts.add(key, share_of(limit, 1), now_us, ask.cost, errand.hold)

    def _owe_refund(self, ask: Ask, errand: Errand, now_us: int) -> None:
        """What the store does not know yet it need not give back."""
        for key, limit in zip(ask.keys, ask.limits, strict=True):
            rest = ask.cost
            if (held := self._debts.peek(key)) is not None:
                counter, share = held
                owed = counter.level(share, now_us)
                counter.give_back(share, now_us, rest * share.unit, errand.age_us)
                rest -= -(-(owed - counter.level(share, now_us)) // share.unit)
            if rest:
                self._errands.append((Ask((key,), (limit,), rest, errand), now_us))

    def owe_everything(self, lost: Callable[[str], bool] = lambda _: True) -> None:
        self._returned = deque(debt for debt in self._returned if not lost(debt.key))
        # The whole count is without what was given back.
        kept = [(ask, since_us) for ask, since_us in self._errands if not (is_refund(ask) and lost(ask.keys[0]))]
        self._errands.clear()
        self._errands.extend(kept)
        self._whole += [key for key in self._counters if lost(key)]

    def put_back(self, debts: Sequence[Debt]) -> None:
        self._returned.extendleft(reversed(debts))

    def take_debts(self, most: int) -> list[Debt]:
        # One kind at a time: so no key is there twice.
        if self._returned:
            return self._take_returned(most)
        return self._take_whole(most) if self._whole else self._take_added(most)

    def _take_returned(self, most: int) -> list[Debt]:
        taken: dict[str, Debt] = {}
        while self._returned and len(taken) < most and self._returned[0].key not in taken:
            debt = self._returned.popleft()
            taken[debt.key] = debt
        return list(taken.values())

    def _take_added(self, most: int) -> list[Debt]:
        keys = list(islice(self._debts, most))
        return [debt for key in keys for debt in self._dump(key, self._debts.pop(key), 1)]

    def _take_whole(self, most: int) -> list[Debt]:
        taken: dict[str, list[Debt]] = {}
        while self._whole and len(taken) < most:
            key = self._whole.pop()
            # What is owed of this key besides is part of its whole count.
            self._debts.pop(key)
            taken[key] = self._dump(key, self._counters.peek(key), self._among())
        return [debt for debts in taken.values() for debt in debts]

    def _dump(self, key: str, held: tuple[Counter, Limit] | None, instances: int) -> list[Debt]:
        """One counter as a debt; none if it has nothing left to say."""
        if held is None or not held[0].level(held[1], self._now_us()):
            return []
        counter, limit = held
        state = counter.dump()
        if limit.algorithm is Algorithm.TOKEN_BUCKET:
            # Tokens of a share are dearer by the number of instances.
            state = (state[0], state[1] // instances)
        return [Debt(key, limit, state)]

    @property
    def owes(self) -> bool:
        """Whether the store has yet to be told something."""
        return bool(self._returned or self._whole or len(self._debts))
