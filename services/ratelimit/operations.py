"""Who decides: the store while it answers, this instance's shadow while it does not. Either way there is a decision."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from chassis.errors import Invalid, MeshError, Unavailable
from chassis.logging import get_logger
from services.ratelimit.model.book import RuleBook
from services.ratelimit.model.decisions import ALLOWED, Decision, Verdict
from services.ratelimit.model.errands import Action, Errand, hold_of
from services.ratelimit.model.limits import Ask, Refund, Subject
from services.ratelimit.ports import Answer, InDoubt, Moved, Rules, Shadow, Store

log = get_logger(__name__)

_ERRANDS_A_CALL = 100
# After so many the shadow decides: whatever moves about like this, nobody shall wait for it.
_MOVES_FOLLOWED = 2
_UNDECIDED = Verdict(ALLOWED, 0, ())


@dataclass(slots=True)
class Tally:
    """What this process has decided since it began."""

    decisions: int = 0
    denied: int = 0
    degraded: int = 0
    # By the names of rules that only watch: what each would have denied.
    shadow_denied: Counter[str] = field(default_factory=Counter)


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
        book = self._rules.book
        return await self.decide_asks([book.ask(subject) for subject in subjects], book.generation)

    async def decide_calls(self, calls: Sequence[Sequence[Subject]]) -> list[list[Decision] | MeshError]:
        """Decides for many calls at once; one that is invalid gets its error and holds up no other."""
        book = self._rules.book
        ask = book.ask
        asks: list[Ask] = []
        ends: list[int | MeshError] = []
        for subjects in calls:
            try:
                asks += [ask(subject) for subject in subjects]
                ends.append(len(asks))
            except MeshError as error:
                ends.append(error)
        decisions = await self.decide_asks(asks, book.generation)
        results: list[list[Decision] | MeshError] = []
        begin = 0
        for end in ends:
            if isinstance(end, MeshError):
                results.append(end)
            else:
                results.append(decisions[begin:end])
                begin = end
        return results

    async def decide_asks(self, asks: Sequence[Ask], generation: int) -> list[Decision]:
        """Decides what was made into asks already, by the rules of that generation."""
        verdicts, degraded = await self.verdicts(asks)
        return _decisions(asks, verdicts, degraded, generation)

    async def verdicts(self, asks: Sequence[Ask]) -> tuple[Sequence[Verdict], Sequence[bool]]:
        """As `decide_asks`, and no more than the verdicts, and for each whether this instance gave it by itself."""
        verdicts, degraded = await self._tell(asks)
        self._count(asks, verdicts, degraded)
        return verdicts, degraded

    async def usage(self, subject: Subject, classes: Sequence[str]) -> list[Decision]:
        """What is left to a subject under all rules of each class; takes nothing and is no decision that counts."""
        book = self._rules.book
        asks = [book.peek(subject._replace(route_class=name)) for name in classes]
        verdicts, degraded = await self._tell(asks)
        return _decisions(asks, verdicts, degraded, book.generation)

    async def refund(self, refunds: Sequence[Refund]) -> None:
        """Gives back parts of costs, in all rules that count costs. What is over by now gives nothing back.

        Raises Invalid, before anything is given, for more than a cost.
        """
        errand = self._rules.book.errand
        await self._tell([errand(one.subject, Errand(Action.REFUND, age_us=one.age_us), one.amount) for one in refunds])

    async def renew(self, subjects: Sequence[Subject]) -> list[bool]:
        """Prolongs holds; for each whether it was still held. Without the store whoever asks is believed."""
        verdicts, _ = await self._tell(self._errands(subjects, Action.RENEW))
        return [verdict.allowed for verdict in verdicts]

    async def release(self, subjects: Sequence[Subject]) -> None:
        """Ends holds; what is not held is passed over."""
        await self._tell(self._errands(subjects, Action.RELEASE))

    async def give_back(self, ended: Sequence[Subject], refunds: Sequence[Refund]) -> None:
        """Releases and refunds, each for itself: of what is invalid nothing is given back, and nobody is told."""
        errand, asks = self._rules.book.errand, []
        wanted = [(subject, Errand(Action.RELEASE, hold_of(subject.hold)), 0) for subject in ended]
        wanted += [(one.subject, Errand(Action.REFUND, age_us=one.age_us), one.amount) for one in refunds]
        for subject, what, amount in wanted:
            try:
                asks.append(errand(subject, what, amount))
            except Invalid as error:
                log.warning("What has ended cannot be given back", reason=error.message)
        await self._tell(asks)

    def _errands(self, subjects: Sequence[Subject], action: Action) -> list[Ask]:
        book = self._rules.book
        return [book.errand(subject, Errand(action, hold_of(subject.hold))) for subject in subjects]

    async def _tell(self, asks: Sequence[Ask]) -> tuple[Sequence[Verdict], Sequence[bool]]:
        """What the store says; without it what this instance's shadow says, and for each ask whether it was that."""
        if not asks:
            return (), ()
        if self._shadow.owes_errands and self._store.ready:
            await self._tell_errands()
        return await self._ask(asks, _MOVES_FOLLOWED)

    async def _ask(self, asks: Sequence[Ask], moves: int) -> tuple[Sequence[Verdict], Sequence[bool]]:
        shares = self._store.shares(asks)
        if shares is None:
            return await self._ask_one(self._store, asks, moves)
        verdicts: list[Verdict] = [_UNDECIDED] * len(asks)
        degraded = [False] * len(asks)
        told = await asyncio.gather(
            *(self._ask_one(store, [asks[index] for index in indexes], moves) for store, indexes in shares)
        )
        for (_, indexes), (found, flags) in zip(shares, told, strict=True):
            for index, verdict, flag in zip(indexes, found, flags, strict=True):
                verdicts[index], degraded[index] = verdict, flag
        return verdicts, degraded

    async def _ask_one(self, store: Store, asks: Sequence[Ask], moves: int) -> tuple[Sequence[Verdict], Sequence[bool]]:
        try:
            answer = await store.decide(asks)
        except InDoubt as doubt:
            verdicts: Sequence[Verdict] = self._shadow.decide(asks)
            doubt.late.add_done_callback(lambda late: self._clear_doubt(asks, verdicts, late))
            return verdicts, [True] * len(asks)
        except Moved:
            if moves:
                return await self._ask(asks, moves - 1)
            return self._do_without(asks)
        except Unavailable:
            return self._do_without(asks)
        self._shadow.record(asks, answer)
        return answer.verdicts, [False] * len(asks)

    def _do_without(self, asks: Sequence[Ask]) -> tuple[Sequence[Verdict], Sequence[bool]]:
        verdicts = self._shadow.decide(asks)
        self._shadow.owe([ask for ask, verdict in zip(asks, verdicts, strict=True) if verdict.allowed])
        return verdicts, [True] * len(asks)

    async def _tell_errands(self) -> None:
        """What was given back and released without the store."""
        errands = self._shadow.take_errands(_ERRANDS_A_CALL)
        shares = self._store.shares(errands) or [(self._store, range(len(errands)))]
        await asyncio.gather(
            *(self._tell_errands_to(store, [errands[index] for index in indexes]) for store, indexes in shares)
        )

    async def _tell_errands_to(self, store: Store, errands: Sequence[Ask]) -> None:
        try:
            await store.decide(errands)
        except InDoubt as doubt:
            doubt.late.add_done_callback(lambda late: self._clear_doubt(errands, _done(errands), late))
        except Unavailable:
            self._shadow.owe(errands)

    def _clear_doubt(self, asks: Sequence[Ask], verdicts: Sequence[Verdict], late: asyncio.Future[Answer]) -> None:
        """The store is owed what was admitted here and not there; all of it when nobody will ever know.

        A refund that may have been given is not given again; a place that may have been taken for nobody is released.
        """
        known = None if late.cancelled() or late.exception() else late.result().verdicts
        owed = []
        for index, (ask, verdict) in enumerate(zip(asks, verdicts, strict=True)):
            errand = ask.errand
            if not verdict.allowed:
                if errand is not None and (known is None or known[index].allowed):
                    owed.append(ask._replace(errand=errand._replace(action=Action.RELEASE)))
            elif known is None:
                if errand is None or errand.action is not Action.REFUND:
                    owed.append(ask)
            elif not known[index].allowed:
                owed.append(ask)
        self._shadow.owe(owed)

    def _count(self, asks: Sequence[Ask], verdicts: Sequence[Verdict], degraded: Sequence[bool]) -> None:
        tally = self.tally
        tally.decisions += len(verdicts)
        tally.degraded += sum(degraded)
        for ask, verdict in zip(asks, verdicts, strict=True):
            if verdict[0] != ALLOWED:
                tally.denied += 1
            if verdict[3]:
                watching = (index for index, limit in enumerate(ask.limits) if limit.shadow)
                tally.shadow_denied.update(ask.limits[index].rule for index in watching if verdict[3] >> index & 1)


def _done(asks: Sequence[Ask]) -> list[Verdict]:
    return [_UNDECIDED] * len(asks)


def _decisions(
    asks: Sequence[Ask], verdicts: Sequence[Verdict], degraded: Sequence[bool], generation: int
) -> list[Decision]:
    # The class's own call takes three times as long.
    new = tuple.__new__
    return [
        new(Decision, (ask, verdict, flag, generation))
        for ask, verdict, flag in zip(asks, verdicts, degraded, strict=True)
    ]
