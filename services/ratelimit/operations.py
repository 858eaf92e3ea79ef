"""Who decides: the store while it answers, this instance's shadow while it does not. Either way there is a decision."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from chassis.errors import MeshError, Unavailable
from services.ratelimit.model.decisions import ALLOWED, Decision, Verdict
from services.ratelimit.model.limits import Ask, RuleBook, Subject
from services.ratelimit.ports import Answer, InDoubt, Rules, Shadow, Store


@dataclass(slots=True)
class Tally:
    """What this process has decided since it began."""

    decisions: int = 0
    denied: int = 0
    degraded: int = 0


class Limiter:
    """Decides, and tells what it goes by."""

    def __init__(self, *, rules: Rules, store: Store, shadow: Shadow) -> None:
        self._rules = rules
        self._store = store
        self._shadow = shadow
        self.tally = Tally()

    @property
    def book(self) -> RuleBook:
        """The rules in force."""
        return self._rules.book

    @property
    def store_ready(self) -> bool:
        """Whether the store decides now."""
        return self._store.ready

    async def decide(self, subjects: Sequence[Subject]) -> list[Decision]:
        """Decides for each subject, all or nothing each. Raises Invalid before anything is counted."""
        ask = self._rules.book.ask
        return await self._decide([ask(subject) for subject in subjects])

    async def decide_calls(self, calls: Sequence[Sequence[Subject]]) -> list[list[Decision] | MeshError]:
        """Decides for many calls at once; one that is invalid gets its error and holds up no other."""
        ask = self._rules.book.ask
        asks: list[Ask] = []
        ends: list[int | MeshError] = []
        for subjects in calls:
            try:
                asks += [ask(subject) for subject in subjects]
                ends.append(len(asks))
            except MeshError as error:
                ends.append(error)
        decisions = await self._decide(asks)
        results: list[list[Decision] | MeshError] = []
        begin = 0
        for end in ends:
            if isinstance(end, MeshError):
                results.append(end)
            else:
                results.append(decisions[begin:end])
                begin = end
        return results

    async def _decide(self, asks: Sequence[Ask]) -> list[Decision]:
        if not asks:
            return []
        degraded = False
        try:
            answer = await self._store.decide(asks)
        except InDoubt as doubt:
            verdicts: Sequence[Verdict] = self._shadow.decide(asks)
            doubt.late.add_done_callback(lambda late: self._clear_doubt(asks, verdicts, late))
            degraded = True
        except Unavailable:
            verdicts = self._shadow.decide(asks)
            self._shadow.owe([ask for ask, verdict in zip(asks, verdicts, strict=True) if verdict.allowed])
            degraded = True
        else:
            verdicts = answer.verdicts
            self._shadow.follow(answer.now_us)
            self._shadow.record(asks, verdicts)
        self._count(verdicts, degraded=degraded)
        return [Decision(ask, verdict, degraded) for ask, verdict in zip(asks, verdicts, strict=True)]

    def _clear_doubt(self, asks: Sequence[Ask], verdicts: Sequence[Verdict], late: asyncio.Future[Answer]) -> None:
        """The store is owed what was admitted here and not there; all of it when nobody will ever know."""
        known = None if late.cancelled() or late.exception() else late.result().verdicts
        self._shadow.owe(
            [
                ask
                for index, (ask, verdict) in enumerate(zip(asks, verdicts, strict=True))
                if verdict.allowed and (known is None or not known[index].allowed)
            ]
        )

    def _count(self, verdicts: Sequence[Verdict], *, degraded: bool) -> None:
        tally = self.tally
        tally.decisions += len(verdicts)
        tally.denied += sum(verdict[0] != ALLOWED for verdict in verdicts)
        if degraded:
            tally.degraded += len(verdicts)
