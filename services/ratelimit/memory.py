"""Counters in this process: the shadow that decides while the store is away, and what is owed to the store then.

Its time is the store's, kept running by the monotonic clock, so setting this machine's clock changes no decision.
Memory is bounded: past the cap the counters unused for longest go, and with them what they had counted.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from chassis.clock import Clock
from services.ratelimit.model.counters import UNKNOWN, Counter, Slots, TokenBucket, new_counter
from services.ratelimit.model.decisions import ALLOWED, Verdict, decide, takes
from services.ratelimit.model.errands import NO_HOLD, Action, Errand, Hold
from services.ratelimit.model.limits import MAX_LEASE_US, Algorithm, Ask, Limit, OnStoreFailure
from services.ratelimit.ports import Debt, Ledger

# Above whatever can be taken.
_NO_END = 2**100


def _is_refund(ask: Ask) -> bool:
    return ask.errand is not None and ask.errand.action is Action.REFUND


@lru_cache(maxsize=4096)
def _share(limit: Limit, among: int) -> Limit:
    return limit.share(among)


class _Terms(NamedTuple):
    """The limits of an ask as one instance applies them without the store.

    Args:
        refusing: the index of the first that lets nothing pass then; -1 if there is none.
        lenient: the indexes of those that let everything pass then.
    """

    shares: tuple[Limit, ...]
    refusing: int
    lenient: tuple[int, ...]


@lru_cache(maxsize=4096)
def _terms(limits: tuple[Limit, ...], among: int) -> _Terms:
    chosen = [None if limit.shadow else limit.on_store_failure for limit in limits]
    shares = [
        replace(_share(limit, among), capacity=_NO_END) if choice is OnStoreFailure.ALLOW else _share(limit, among)
        for limit, choice in zip(limits, chosen, strict=True)
    ]
    refusing = chosen.index(OnStoreFailure.DENY) if OnStoreFailure.DENY in chosen else -1
    lenient = tuple(index for index, choice in enumerate(chosen) if choice is OnStoreFailure.ALLOW)
    return _Terms(tuple(shares), refusing, lenient)


class Counters:
    """Counters by key, at most `cap` of them and never fewer than the `cap / 2` used last.

    Two generations instead of a list in order of use: a hit costs one look-up, and forgetting costs nothing.
    """

    def __init__(self, cap: int, make: Callable[[Algorithm], Counter] = new_counter) -> None:
        self.cap = cap
        self._make = make
        self._half = max(1, cap // 2)
        self._young: dict[str, tuple[Counter, Limit]] = {}
        self._old: dict[str, tuple[Counter, Limit]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: str, limit: Limit) -> Counter:
        """The counter of a key, an empty one if there was none."""
        held = self._young.get(key)
        if held is None:
            held = self._old.pop(key, None) or (self._make(limit.algorithm), limit)
            if len(self._young) >= self._half:
                self._old, self._young = self._young, {}
            self._young[key] = held
        return held[0]

    def decide(self, ask: Ask, now_us: int) -> Verdict:
        """Decides one ask and counts it if it passes."""
        return decide(ask, [self.get(key, limit) for key, limit in zip(ask.keys, ask.limits, strict=True)], now_us)

    def add(self, key: str, limit: Limit, now_us: int, cost: int, hold: Hold = NO_HOLD) -> None:
        """Counts a cost whether it fits or not."""
        counter = self.get(key, limit)
        counter.level(limit, now_us)
        counter.add(limit, now_us, cost * limit.unit, hold)

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
                    self._debts.add(key, _share(limit, 1), now_us, ask.cost, errand.hold)

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
        kept = [(ask, since_us) for ask, since_us in self._errands if not (_is_refund(ask) and lost(ask.keys[0]))]
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


class MemoryShadow(Debts):
    """What one instance has admitted, and what of it the store was not told.

    Args:
        instances: how many instances share the limits now, this one included.
        cap: how many counters are remembered, and how many debts.
    """

    def __init__(self, clock: Clock, instances: Callable[[], int], *, cap: int) -> None:
        self._clock = clock
        self._instances = instances
        self._sharing = 1
        # What was given back or released; the oldest are forgotten first, and then too little may pass for a while.
        errands: deque[tuple[Ask, int]] = deque(maxlen=cap)
        super().__init__(Counters(cap), errands, lambda: self.now_us, lambda: self._sharing)
        self._ledger_of: Callable[[str], Ledger] | None = None
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
        among = self._sharing = max(1, self._instances())
        now_us = self.now_us
        for ask, verdict in zip(asks, verdicts, strict=True):
            if ask.errand is not None or verdict[3]:
                self._follow_up(ask, verdict, now_us)
            elif verdict[0] == ALLOWED and ask.cost > 0:
                for key, limit in zip(ask.keys, ask.limits, strict=True):
                    self._counters.add(key, _share(limit, among), now_us, ask.cost)

    def _follow_up(self, ask: Ask, verdict: Verdict, now_us: int) -> None:
        """Counts what the store has made of an ask that was not simply admitted."""
        errand = ask.errand or Errand(Action.TAKE)
        if errand.action in {Action.REFUND, Action.RELEASE}:
            self._counters.decide(self._shared(ask), now_us)
        elif ask.cost > 0 or errand.action is Action.RENEW:
            for index, (key, limit) in enumerate(zip(ask.keys, ask.limits, strict=True)):
                if takes(limit, index, verdict):
                    self._counters.add(key, _share(limit, self._sharing), now_us, ask.cost, errand.hold)

    def _shared(self, ask: Ask) -> Ask:
        return ask._replace(limits=tuple(_share(limit, self._sharing) for limit in ask.limits))

    def decide(self, asks: Sequence[Ask]) -> list[Verdict]:
        self._sharing = max(1, self._instances())
        now_us = self.now_us
        return [self._decide(ask, now_us) for ask in asks]

    def _decide(self, ask: Ask, now_us: int) -> Verdict:
        terms = _terms(ask.limits, self._sharing)
        action = Action.TAKE if ask.errand is None else ask.errand.action
        if action is Action.RENEW:
            # Only the store knows whether it is held. Whoever renews runs, and counts.
            for key, share in zip(ask.keys, terms.shares, strict=True):
                self._counters.add(key, share, now_us, 1, ask.errand.hold if ask.errand else NO_HOLD)
        refused = action is Action.TAKE and terms.refusing >= 0
        verdict = self._counters.decide(ask._replace(limits=terms.shares, cost=0 if refused else ask.cost), now_us)
        if refused:
            violated = verdict.violated | 1 << terms.refusing
            verdict = verdict._replace(wait_us=UNKNOWN, slowest=terms.refusing, violated=violated)
        if terms.lenient:
            levels = list(verdict.levels)
            for index in terms.lenient:
                levels[2 * index] = min(levels[2 * index], ask.limits[index].limit)
            verdict = verdict._replace(levels=tuple(levels))
        return verdict

    # -- what the store must be told -----------------------------------------------------------------------------

    def open_ledger(self) -> Ledger:
        """An account of its own for one of several stores."""
        return Debts(self._counters, self._errands, self._now_us, self._among)

    def split(self, ledger_of: Callable[[str], Ledger]) -> None:
        """From now on what is owed goes to the account of the store that keeps the counter."""
        self._ledger_of = ledger_of

    def owe(self, asks: Sequence[Ask]) -> None:
        if self._ledger_of is None:
            super().owe(asks)
            return
        for ask in asks:
            parts: dict[Ledger, list[tuple[str, Limit]]] = {}
            for key, limit in zip(ask.keys, ask.limits, strict=True):
                parts.setdefault(self._ledger_of(key), []).append((key, limit))
            for ledger, pairs in parts.items():
                keys, limits = zip(*pairs, strict=True)
                ledger.owe([ask._replace(keys=keys, limits=limits)])

    @property
    def owes_errands(self) -> bool:
        return bool(self._errands)

    def take_errands(self, most: int) -> list[Ask]:
        taken: list[Ask] = []
        while self._errands and len(taken) < most:
            ask, since_us = self._errands.popleft()
            waited_us = max(0, self.now_us - since_us)
            if ask.errand is not None and _is_refund(ask):
                taken.append(ask._replace(errand=ask.errand._replace(age_us=ask.errand.age_us + waited_us)))
            elif waited_us < MAX_LEASE_US:
                taken.append(ask)
        return taken
