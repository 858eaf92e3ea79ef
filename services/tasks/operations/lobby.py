"""Where what may begin in an offered slot waits for one, when none is free but one comes soon.

Without it a burst of some milliseconds would go by pointers; while pointers wait workers offer nothing, so that all
behind it would take the longer way too, for as long as the load lasts. It knows neither commits nor what a slot is
filled with.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chassis.errors import MeshError, Unavailable
from services.tasks.model.states import Priority
from services.tasks.model.task import Receipt, Submission
from services.tasks.operations.batches import Batcher
from services.tasks.operations.direct import Direct
from services.tasks.operations.offers import Offer, Offers

# A slot that takes longer is not worth it: the caller waits for the acceptance.
PATIENCE_SECONDS = 0.05
# So many of a group may wait at most.
MOST = 500
# Few slots are not worth a commit while more wait for one, and more slots are on their way.
_WORTH_A_BATCH = 16
_SHARE = 4


@dataclass(slots=True)
class _Waiting:
    submission: Submission
    future: asyncio.Future[Receipt]
    until: float


def _lines() -> dict[Priority, deque[_Waiting]]:
    return {priority: deque() for priority in sorted(Priority, reverse=True)}


@dataclass(slots=True)
class _Group:
    """What waits of one group.

    Attributes:
        lines: of each class, the urgent first; in each of them those that came first.
        count: in all lines.
        most: how many may wait: one more with each that found a slot, half as many when some found none in time. So
            nothing waits where slots do not come soon.
        halved_at: when that was the last time.
    """

    lines: dict[Priority, deque[_Waiting]] = field(default_factory=_lines)
    count: int = 0
    most: int = 0
    halved_at: float = float("-inf")

    def put(self, waiting: _Waiting) -> None:
        self.lines[waiting.submission.priority].append(waiting)
        self.count += 1

    def next(self, line: deque[_Waiting]) -> _Waiting:
        self.count -= 1
        return line.popleft()

    def trust(self) -> None:
        self.most = min(self.most + 1, MOST)

    def doubt(self, now: float) -> None:
        if now - self.halved_at >= PATIENCE_SECONDS:
            self.most //= 2
            self.halved_at = now


class Lobby:
    """Lets submissions into their batch, with a slot if there is one. `run` has to run.

    Args:
        drop: told of each that waited here and is not let in: its caller left before, or the batcher takes no more.
    """

    def __init__(
        self, offers: Offers, direct: Direct, batcher: Batcher[Submission, Receipt], drop: Callable[[Submission], None]
    ) -> None:
        self._offers = offers
        self._direct = direct
        self._batcher = batcher
        self._drop = drop
        self._groups: dict[str, _Group] = {}
        # The slots of those that were let in, until they are written.
        self._taken: dict[str, Offer] = {}
        self._some = asyncio.Event()
        self._looking = False
        offers.gained = self._look

    def put(self, submission: Submission) -> asyncio.Future[Receipt]:
        """Adds a submission to the next batch, or to one that begins soon. Raises as the batcher does."""
        if submission.deadline_at is not None or not self._direct.lets_pass(submission):
            return self._batcher.put(submission)
        group = self._groups.setdefault(submission.group, _Group())
        if not group.count and (offer := self._take(submission, group)) is not None:
            return self._let_in(submission, offer)
        if group.count >= group.most:
            return self._batcher.put(submission)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(submission, loop.create_future(), loop.time() + PATIENCE_SECONDS)
        group.put(waiting)
        self._some.set()
        return waiting.future

    def take_out(self, submissions: Sequence[Submission]) -> dict[str, Offer]:
        """The slots of these, as far as they have some: they are the caller's from now on."""
        return {s.task_id: offer for s in submissions if (offer := self._taken.pop(s.task_id, None)) is not None}

    def leave(self, submission: Submission) -> None:
        """It will not be written: if it has a slot, that is free."""
        if (offer := self._taken.pop(submission.task_id, None)) is not None:
            offer.release()

    async def run(self) -> None:
        """Lets in what has waited long enough, without a slot, for ever. When it is cancelled, what waits fails."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                while (until := self._until()) is not None:
                    await asyncio.sleep(until - loop.time())
                    self._expire(loop.time())
        finally:
            for group in self._groups.values():
                for line in group.lines.values():
                    for one in line:
                        if not one.future.done():
                            one.future.set_exception(Unavailable("The service is going away"))

    def _until(self) -> float | None:
        """When somebody has waited long enough; None: nobody waits."""
        firsts = [line[0].until for group in self._groups.values() for line in group.lines.values() if line]
        return min(firsts, default=None)

    def _expire(self, now: float) -> None:
        for group in self._groups.values():
            for line in group.lines.values():
                while line and line[0].until <= now:
                    group.doubt(now)
                    self._go_on(group.next(line), None)

    def _look(self, offer: Offer) -> None:
        """Lets in what there is room for, when an offer has enough to be worth it."""
        # What cannot be let in gives its slot back, of which this is told.
        if self._looking:
            return
        self._looking = True
        try:
            for group in self._groups.values():
                if group.count and offer.room >= min(group.count, _WORTH_A_BATCH, max(1, offer.open // _SHARE)):
                    for line in group.lines.values():
                        self._fill(group, line)
        finally:
            self._looking = False

    def _fill(self, group: _Group, line: deque[_Waiting]) -> None:
        while line:
            if line[0].future.done():
                self._drop(group.next(line).submission)
            elif (offer := self._take(line[0].submission, group)) is None:
                return
            else:
                self._go_on(group.next(line), offer)

    def _take(self, submission: Submission, group: _Group) -> Offer | None:
        if not self._direct.is_clear(submission.group) or (offer := self._offers.take(submission.kind)) is None:
            return None
        group.trust()
        return offer

    def _go_on(self, one: _Waiting, offer: Offer | None) -> None:
        """Lets in one that waited."""
        if one.future.done():
            self._drop(one.submission)
            return
        try:
            self._let_in(one.submission, offer, one.future)
        except MeshError as error:
            self._drop(one.submission)
            one.future.set_exception(error)

    def _let_in(
        self, submission: Submission, offer: Offer | None, future: asyncio.Future[Receipt] | None = None
    ) -> asyncio.Future[Receipt]:
        if offer is not None:
            self._taken[submission.task_id] = offer
        try:
            return self._batcher.put(submission, future)
        except MeshError:
            self.leave(submission)
            raise
