"""Where what may begin in an offered slot waits for one, when none is free but one comes soon.

Without it a burst of some milliseconds would go by pointers; while pointers wait workers offer nothing, so that all
behind it would take the longer way too, for as long as the load lasts. It promises slots; whether a promise holds is
decided when the batch is written. It knows neither commits nor what a slot is filled with.

While a backlog stays, whoever submits is held here for as long as `congestion` says, unless a slot comes before: so the
work catches up with what is accepted.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from chassis.errors import MeshError, Unavailable
from services.tasks.model.states import Priority
from services.tasks.model.task import Receipt, Submission
from services.tasks.operations.batches import Batcher
from services.tasks.operations.direct import Direct
from services.tasks.operations.figures import Figures
from services.tasks.operations.offers import Offer, Offers

# A slot that takes longer is not worth it, as long as the work keeps up: the caller waits for the acceptance.
PATIENCE_SECONDS = 0.05
# So many of a kind and class, and of those above it, may wait so long at most.
MOST = 500
# Few slots are not worth a commit while more wait for one, and more slots are on their way.
_WORTH_A_BATCH = 16
_SHARE = 4
# So often is looked for slots of which nobody tells: what stood in the way of them is gone.
_LOOK_SECONDS = 0.01


@dataclass(slots=True)
class _Waiting:
    submission: Submission
    future: asyncio.Future[Receipt]
    since: float


# Those that came first are first.
_Line = deque[_Waiting]


@dataclass(slots=True)
class _Kind:
    """What waits of one kind.

    Attributes:
        lines: one for each class.
        most: how many may wait: one more with each that found a slot, half as many when some found none in time.
        halved_at: when that was the last time.
    """

    lines: dict[Priority, _Line] = field(default_factory=lambda: {priority: deque() for priority in Priority})
    most: int = 0
    halved_at: float = float("-inf")

    def count(self, priority: Priority) -> int:
        """How many wait of a class and of those above it."""
        return sum(len(line) for other, line in self.lines.items() if other >= priority)

    def trust(self) -> None:
        self.most = min(self.most + 1, MOST)

    def doubt(self, now: float) -> None:
        if now - self.halved_at >= PATIENCE_SECONDS:
            self.most //= 2
            self.halved_at = now


class Lobby:
    """Lets submissions into their batch, with the promise of a slot if there is one. `run` has to run.

    Args:
        drop: told of each that waited here and is not let in, because the batcher takes no more.
    """

    def __init__(
        self,
        offers: Offers,
        direct: Direct,
        figures: Figures,
        batcher: Batcher[Submission, Receipt],
        drop: Callable[[Submission], None],
    ) -> None:
        self._offers = offers
        self._direct = direct
        self._figures = figures
        self._batcher = batcher
        self._drop = drop
        self._kinds: dict[str, _Kind] = {}
        # How many wait of each group and class.
        self._counts: Counter[tuple[str, Priority]] = Counter()
        # Of those that were let in, until they are written.
        self._promised: dict[str, Offer] = {}
        self._some = asyncio.Event()
        self._looking = False
        offers.gained = self._look

    def put(self, submission: Submission) -> asyncio.Future[Receipt]:
        """Adds a submission to the next batch, or to one that begins soon. Raises as the batcher does."""
        passes, held = self._direct.lets_pass(submission), self._hold_seconds(submission)
        if submission.deadline_at is not None or not (passes or held):
            return self._batcher.put(submission)
        if (kind := self._kinds.get(submission.kind)) is None:
            kind = self._kinds[submission.kind] = _Kind()
        count = kind.count(submission.priority)
        if not count:
            # Others whose turn is before may wait for the same workers.
            if self._count(submission.priority):
                self._fill(self._kinds)
            if passes and (offer := self._promise(submission, kind)) is not None:
                return self._let_in(submission, offer)
        most = MOST * held / PATIENCE_SECONDS or kind.most
        if count >= most or not self._is_worth_it(submission, held or PATIENCE_SECONDS):
            return self._batcher.put(submission)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(submission, loop.create_future(), loop.time())
        kind.lines[submission.priority].append(waiting)
        self._counts[submission.group, submission.priority] += 1
        self._some.set()
        return waiting.future

    def _hold_seconds(self, submission: Submission) -> float:
        """How long it is to wait for the work to catch up, if no slot comes before; 0: it need not."""
        seconds = self._figures.hold_seconds(submission.group, submission.priority)
        return seconds if seconds and self._direct.is_simple(submission) else 0.0

    def _is_worth_it(self, submission: Submission, seconds: float) -> bool:
        """Whether so much is worked off in this time that it should find a slot, behind those of its group whose turn
        is before, if nothing else waits.
        """
        if not self._offers.is_offered(submission.kind):
            return False
        before = self._count(submission.priority, submission.group)
        return before + 1 <= self._figures.slots_within(submission.group, seconds)

    def _count(self, priority: Priority, group: str | None = None) -> int:
        """How many wait of a class and of those above it, in one group or in all."""
        return sum(
            count for (other, mine), count in self._counts.items() if mine >= priority and group in (None, other)
        )

    def reserve(self, eligible: Sequence[Submission], batch: Sequence[Submission]) -> dict[str, Offer]:
        """Takes slots for what of a batch is eligible: those that it was promised, and what nobody waits for.

        The promises of all of the batch end. Nothing waited for room when they were given, so they hold also where
        something does by now.
        """
        promised = {s.task_id: offer for s in batch if (offer := self._promised.pop(s.task_id, None)) is not None}
        clear = {group: self._direct.is_clear(group) for group in {s.group for s in eligible}}
        first = [s for s in eligible if s.task_id in promised or (clear[s.group] and not self._waits(s))]
        return self._offers.reserve(first, promised)

    def leave(self, submission: Submission) -> None:
        """It will not be written: if it was promised a slot, that is free."""
        if (offer := self._promised.pop(submission.task_id, None)) is not None:
            self._offers.forgo(offer)

    def _waits(self, submission: Submission) -> bool:
        return (kind := self._kinds.get(submission.kind)) is not None and kind.count(submission.priority) > 0

    async def run(self) -> None:
        """Lets in what has waited long enough, without a slot, for ever. When it is cancelled, what waits fails."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                while ends := [
                    self._end_of(line) for kind in self._kinds.values() for line in kind.lines.values() if line
                ]:
                    await asyncio.sleep(min(min(ends) - loop.time(), _LOOK_SECONDS))
                    self._fill(self._kinds)
                    self._expire(loop.time())
        finally:
            for kind in self._kinds.values():
                for line in kind.lines.values():
                    for one in line:
                        if not one.future.done():
                            one.future.set_exception(Unavailable("The service is going away"))

    def _expire(self, now: float) -> None:
        for kind in self._kinds.values():
            for line in kind.lines.values():
                while line and self._end_of(line) <= now:
                    kind.doubt(now)
                    self._go_on(line, None)

    def _end_of(self, line: _Line) -> float:
        """Until when the first of a line waits; those who are held only as long as that lasts."""
        return line[0].since + (self._hold_seconds(line[0].submission) or PATIENCE_SECONDS)

    def _look(self, offer: Offer) -> None:
        """An offer has room: lets in what there is room for, if it is worth it."""
        # What cannot be let in gives its slot back, of which this is told.
        if self._looking:
            return
        waiting = sum(self._counts.values())
        if waiting and offer.free >= min(waiting, _WORTH_A_BATCH, max(1, offer.open // _SHARE)):
            self._fill(offer.kinds)

    def _fill(self, names: Collection[str]) -> None:
        """Lets in what there is room for: the urgent first, and of a class those that came first."""
        self._looking = True
        try:
            kinds = [kind for name in names if (kind := self._kinds.get(name)) is not None]
            for priority in sorted(Priority, reverse=True):
                self._fill_class([(kind.lines[priority], kind) for kind in kinds if kind.lines[priority]])
        finally:
            self._looking = False

    def _fill_class(self, lines: Sequence[tuple[_Line, _Kind]]) -> None:
        firsts = [(line[0].since, number) for number, (line, _) in enumerate(lines)]
        heapify(firsts)
        while firsts:
            _, number = firsts[0]
            line, kind = lines[number]
            if self._fill_one(line, kind) and line:
                heapreplace(firsts, (line[0].since, number))
            else:
                heappop(firsts)

    def _fill_one(self, line: _Line, kind: _Kind) -> bool:
        """False: there is no room for the first of a line."""
        if line[0].future.done():
            # Its caller left: the batcher drops it.
            self._go_on(line, None)
            return True
        # Who was held may come behind others that wait in the table.
        passes = self._direct.lets_pass(line[0].submission)
        if not passes or (offer := self._promise(line[0].submission, kind)) is None:
            return False
        self._go_on(line, offer)
        return True

    def _promise(self, submission: Submission, kind: _Kind) -> Offer | None:
        if not self._direct.is_clear(submission.group) or (offer := self._offers.promise(submission.kind)) is None:
            return None
        kind.trust()
        return offer

    def _go_on(self, line: _Line, offer: Offer | None) -> None:
        """Lets in the first of a line."""
        one = line.popleft()
        self._counts[one.submission.group, one.submission.priority] -= 1
        try:
            self._let_in(one.submission, offer, one.future)
        except MeshError as error:
            self._drop(one.submission)
            if not one.future.done():
                one.future.set_exception(error)

    def _let_in(
        self, submission: Submission, offer: Offer | None, future: asyncio.Future[Receipt] | None = None
    ) -> asyncio.Future[Receipt]:
        if offer is not None:
            self._promised[submission.task_id] = offer
        try:
            return self._batcher.put(submission, future)
        except MeshError:
            self.leave(submission)
            raise
