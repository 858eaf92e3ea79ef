"""What this instance decides by while the store is away.

Its time is the store's, kept running by the monotonic clock, so setting this machine's clock changes no decision.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from chassis.clock import Clock
from services.ratelimit.memory.counters import Counters, share_of
from services.ratelimit.memory.debts import Debts, is_refund
from services.ratelimit.model.counters import UNKNOWN
from services.ratelimit.model.decisions import ALLOWED, Verdict, takes
from services.ratelimit.model.errands import NO_HOLD, Action, Errand, gives_back
from services.ratelimit.model.limits import MAX_LEASE_US, Ask, Limit, OnStoreFailure
from services.ratelimit.ports import Answer, Ledger

# No answer that is late by more is taken into account.
_LONGEST_WAY_US = 20_000
# Above whatever can be taken.
_NO_END = 2**100


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
        replace(share_of(limit, among), capacity=_NO_END) if choice is OnStoreFailure.ALLOW else share_of(limit, among)
        for limit, choice in zip(limits, chosen, strict=True)
    ]
    refusing = chosen.index(OnStoreFailure.DENY) if OnStoreFailure.DENY in chosen else -1
    lenient = tuple(index for index, choice in enumerate(chosen) if choice is OnStoreFailure.ALLOW)
    return _Terms(tuple(shares), refusing, lenient)


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

    def _follow(self, store_now_us: int) -> None:
        """Answers are on their way for a while, so time seems to lag. By much it does only when it was set back."""
        ahead_us = store_now_us - self._monotonic_us()
        if not 0 < self._ahead_us - ahead_us < _LONGEST_WAY_US:
            self._ahead_us = ahead_us

    def record(self, asks: Sequence[Ask], answer: Answer) -> None:
        among = self._sharing = max(1, self._instances())
        now_us = answer.now_us
        self._follow(now_us)
        add = self._counters.add
        for ask, verdict in zip(asks, answer.verdicts, strict=True):
            keys, limits, cost, errand = ask
            if errand is not None or verdict[3]:
                self._follow_up(ask, verdict, now_us)
            elif verdict[0] == ALLOWED and cost > 0:
                for key, limit in zip(keys, limits, strict=True):
                    add(key, share_of(limit, among), now_us, cost)

    def _follow_up(self, ask: Ask, verdict: Verdict, now_us: int) -> None:
        """Counts what the store has made of an ask that was not simply admitted."""
        errand = ask.errand or Errand(Action.TAKE)
        if gives_back(errand):
            self._counters.decide(self._shared(ask), now_us)
        elif ask.cost > 0 or errand.action is Action.RENEW:
            for index, (key, limit) in enumerate(zip(ask.keys, ask.limits, strict=True)):
                if takes(limit, index, verdict):
                    self._counters.add(key, share_of(limit, self._sharing), now_us, ask.cost, errand.hold)

    def _shared(self, ask: Ask) -> Ask:
        return ask._replace(limits=tuple(share_of(limit, self._sharing) for limit in ask.limits))

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
            if ask.errand is not None and is_refund(ask):
                taken.append(ask._replace(errand=ask.errand._replace(age_us=ask.errand.age_us + waited_us)))
            elif waited_us < MAX_LEASE_US:
                taken.append(ask)
        return taken
