"""Asks whose counters are kept in several places, which no one script call can change together.

First every place is asked whether the cost would pass, which changes nothing; only what would pass everywhere is then
taken everywhere. Where somebody else was faster in between, what was taken elsewhere is given back. Whatever happens,
nothing passes that was not counted in every place first.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from chassis.errors import Unavailable
from services.ratelimit.model.counters import UNKNOWN, new_counter
from services.ratelimit.model.decisions import ALLOWED, NEVER, Verdict, takes
from services.ratelimit.model.errands import Action, Errand
from services.ratelimit.model.limits import Ask
from services.ratelimit.ports import Answer, Debt, InDoubt, Ledger, Moved, Shadow, Store

_RANKS = {NEVER: 2.0**101, UNKNOWN: 2.0**100}


class Home(Store, Protocol):
    """Where counters are kept together."""

    ledger: Ledger

    def tell_soon(self) -> None:
        """Tells what is owed now."""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The counters of one ask that share a home.

    Args:
        which: their indexes in the ask.
    """

    whole: int
    home: Home
    ask: Ask
    which: tuple[int, ...]


_Results = dict[_Part, tuple[Verdict, int]]


class Span:
    """Decides about asks with several homes."""

    ready = True

    def __init__(self, home_of: Callable[[str], Home], shadow: Shadow) -> None:
        self._home_of = home_of
        self._shadow = shadow

    def shares(self, asks: Sequence[Ask]) -> None:
        """It can be asked about all."""

    async def decide(self, asks: Sequence[Ask]) -> Answer:
        """See the port."""
        parts = [self._parts(index, ask) for index, ask in enumerate(asks)]
        plain = [part for some in parts for part in some if not _takes_together(part.ask)]
        trials = [part for some in parts for part in some if _takes_together(part.ask)]
        found = await _ask_plainly(plain) | await _ask_whether(trials)
        passing = {part.whole for part in trials if all(found[other][0].allowed for other in parts[part.whole])}
        self._count_denied([ask for index, ask in enumerate(asks) if parts[index] and index not in passing])
        taken = await self._take([part for part in trials if part.whole in passing])
        found |= taken
        for part, (verdict, now_us) in taken.items():
            if verdict.allowed and not all(taken[other][0].allowed for other in parts[part.whole]):
                self._give_back(part, verdict, now_us)
                found[part] = _untaken(part.ask, verdict), now_us
        now_us = max((now_us for _, now_us in found.values()), default=0)
        return Answer([_merge(ask, parts[index], found) for index, ask in enumerate(asks)], now_us)

    def _parts(self, whole: int, ask: Ask) -> list[_Part]:
        homes: dict[Home, list[int]] = {}
        for index, key in enumerate(ask.keys):
            homes.setdefault(self._home_of(key), []).append(index)
        return [_Part(whole, home, _some_of(ask, which), tuple(which)) for home, which in homes.items()]

    def _count_denied(self, denied: Sequence[Ask]) -> None:
        """Rules that count what is denied have not heard of what was only asked."""
        for ask in denied:
            which = [index for index, limit in enumerate(ask.limits) if limit.counts_denied]
            if which and _takes_together(ask):
                self._shadow.owe([_some_of(ask, which)])

    async def _take(self, parts: Sequence[_Part]) -> _Results:
        """Takes in every home, all or nothing if a home cannot be reached."""
        found, failures = await _ask(parts)
        if failures:
            for part, (verdict, now_us) in found.items():
                self._give_back(part, verdict, now_us)
            for home_parts, error in failures:
                if isinstance(error, InDoubt):
                    error.late.add_done_callback(partial(self._regret, home_parts))
            moved = all(isinstance(error, Moved) for _, error in failures)
            raise Moved if moved else Unavailable(private="one of several nodes is away")
        return found

    def _regret(self, parts: Sequence[_Part], late: "asyncio.Future[Answer]") -> None:
        if late.cancelled() or late.exception():
            return
        verdicts, now_us = late.result()
        for part, verdict in zip(parts, verdicts, strict=True):
            self._give_back(part, verdict, now_us)

    def _give_back(self, part: _Part, verdict: Verdict, now_us: int) -> None:
        """Leaves the counters as if nothing had been taken then, by debts that are told until they are heard."""
        if not verdict.allowed:
            return
        ask = part.ask
        debts = []
        for index, (key, limit) in enumerate(zip(ask.keys, ask.limits, strict=True)):
            if limit.counts_denied or not takes(limit, index, verdict):
                continue
            if limit.concurrent:
                self._shadow.owe([_some_of(ask, [index])._replace(errand=_release(ask))])
                continue
            counter = new_counter(limit.algorithm)
            counter.level(limit, now_us)
            counter.add(limit, now_us, -ask.cost * limit.unit)
            debts.append(Debt(key, limit, counter.dump()))
        part.home.ledger.put_back(debts)
        part.home.tell_soon()


def _takes_together(ask: Ask) -> bool:
    """Whether all or nothing is to be taken. Errands are not, nor is what counts in any case."""
    plain = ask.errand is None or ask.errand.action is Action.TAKE
    return plain and ask.cost > 0 and not all(limit.counts_denied for limit in ask.limits)


def _release(ask: Ask) -> Errand | None:
    return ask.errand._replace(action=Action.RELEASE) if ask.errand else None


def _some_of(ask: Ask, which: Sequence[int]) -> Ask:
    return ask._replace(
        keys=tuple(ask.keys[index] for index in which), limits=tuple(ask.limits[index] for index in which)
    )


async def _ask(parts: Sequence[_Part]) -> tuple[_Results, list[tuple[list[_Part], Unavailable]]]:
    """Asks every home about its parts; what was found, and who could not answer."""
    by_home: dict[Home, list[_Part]] = {}
    for part in parts:
        by_home.setdefault(part.home, []).append(part)
    answers = await asyncio.gather(
        *(home.decide([part.ask for part in its]) for home, its in by_home.items()), return_exceptions=True
    )
    found: _Results = {}
    failures: list[tuple[list[_Part], Unavailable]] = []
    for its, answer in zip(by_home.values(), answers, strict=True):
        if isinstance(answer, BaseException):
            if not isinstance(answer, Unavailable):
                raise answer
            failures.append((its, answer))
        else:
            found |= {part: (verdict, answer.now_us) for part, verdict in zip(its, answer.verdicts, strict=True)}
    return found, failures


async def _ask_whether(parts: Sequence[_Part]) -> _Results:
    """Whether the costs would pass; takes nothing."""
    trials = {_Part(p.whole, p.home, p.ask._replace(cost=-p.ask.cost), p.which): p for p in parts}
    found, failures = await _ask(list(trials))
    if failures:
        moved = all(isinstance(error, Moved) for _, error in failures)
        raise Moved if moved else Unavailable(private="one of several nodes is away")
    return {trials[trial]: result for trial, result in found.items()}


async def _ask_plainly(parts: Sequence[_Part]) -> _Results:
    """What each home does for itself; where one of them fails, nobody knows what the whole has done."""
    found, failures = await _ask(parts)
    if failures and (found or any(isinstance(error, InDoubt) for _, error in failures)):
        never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        never.cancel()
        raise InDoubt(never)
    if failures:
        raise failures[0][1]
    return found


def _untaken(ask: Ask, verdict: Verdict) -> Verdict:
    """The verdict with what remains once the cost is given back."""
    levels = list(verdict.levels)
    for index, limit in enumerate(ask.limits):
        if not limit.counts_denied and takes(limit, index, verdict):
            levels[2 * index] += 1 if limit.concurrent else ask.cost
    return verdict._replace(levels=tuple(levels))


def _merge(ask: Ask, parts: Sequence[_Part], found: _Results) -> Verdict:
    levels = [0] * (2 * len(ask.keys))
    wait_us, slowest, violated = ALLOWED, 0, 0
    for part in parts:
        verdict, _ = found[part]
        for place, index in enumerate(part.which):
            levels[2 * index : 2 * index + 2] = verdict.levels[2 * place : 2 * place + 2]
            violated |= (verdict.violated >> place & 1) << index
        if _RANKS.get(verdict.wait_us, verdict.wait_us) > _RANKS.get(wait_us, wait_us):
            wait_us, slowest = verdict.wait_us, part.which[verdict.slowest]
    return Verdict(wait_us, slowest, tuple(levels), violated)
