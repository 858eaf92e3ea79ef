"""Pointers on the short way: from the commit of their task straight to the broker, without a row of their own.

While their queue has room they are published at once; else they wait here for a moment, owners in turn, as long as
nothing of it waits in the table. One row for all of a commit is there until all of them are settled: a crash repeats
them.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from chassis.clock import Clock
from chassis.errors import MeshError, Unavailable
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from services.tasks.model.states import Priority
from services.tasks.model.task import Accepted, Submission
from services.tasks.model.work import WaitingPointer
from services.tasks.operations.feeder import MOST_AHEAD, Feeder, Place
from services.tasks.operations.lines import Line
from services.tasks.ports import PointerStore, PublishBundles

log = get_logger(__name__)

# So many bursts may wait for their confirmation at once; the broker takes tens of milliseconds when it is busy.
BURSTS = 32
_MOST_AT_ONCE = 500
# Rows of what was settled go together.
_TIDY_EVERY_SECONDS = 0.05
_MOST_PAUSE_SECONDS = 1.0
# So long a process that ends waits for confirmations; what has none by then is recalled by others.
_CLOSES_WITHIN_SECONDS = 1.0
# Then the table is the better place to wait: others take their turns there too. Well before the rows are mistaken for
# those of a process that died (`Feeder`).
_MOST_WAIT_SECONDS = 1.2


@dataclass(slots=True)
class _Commit:
    """The pointers of one row. `left`: those that are not settled; `refused`: those that nobody took."""

    began_at: float
    pointers: int
    left: int
    refused: list[WaitingPointer] = field(default_factory=list)


class Direct:
    """Takes what was accepted a moment ago. `run` (as often as `BURSTS` says) and `tidy` have to run.

    What waits here is bounded: nothing is let in behind `MOST_AHEAD`, and what commits that were written at once have
    put there beyond it is given up by the next `tidy`.
    """

    def __init__(self, store: PointerStore, feeder: Feeder, publish: PublishBundles, *, clock: Clock) -> None:
        self._store = store
        self._feeder = feeder
        self._publish = publish
        self._clock = clock
        self._lines: defaultdict[Place, Line] = defaultdict(Line)
        self._bursts: asyncio.Queue[list[WaitingPointer]] = asyncio.Queue()
        self._commits: dict[int, _Commit] = {}
        self._settled: dict[int, _Commit] = {}
        self._untidy = asyncio.Event()
        self._storing = asyncio.Lock()
        self._nothing_left = asyncio.Event()
        self._nothing_left.set()
        self._closed = False
        feeder.go_on = self._go_on

    def reserve(self, submissions: Sequence[Submission]) -> frozenset[str]:
        """The tasks among these whose pointers may take the short way."""
        if self._closed:
            return frozenset()
        waiting = Counter({place: len(line) for place, line in self._lines.items()})
        passing = []
        for one in submissions:
            place = one.group, one.priority
            if self._feeder.lets_pass(one, waiting[place]):
                waiting[place] += 1
                passing.append(one.task_id)
        return frozenset(passing)

    def lets_pass(self, submission: Submission) -> bool:
        """Whether the pointer of a submission may take the short way now."""
        return not self._closed and self._feeder.lets_pass(submission, 0)

    def is_simple(self, submission: Submission) -> bool:
        """Whether the pointer of a submission may take the short way when nothing waits before it."""
        return not self._closed and self._feeder.is_simple(submission)

    def is_clear(self, group: str) -> bool:
        """Nothing of a group waits here for room."""
        # What waits belongs to a commit that is not settled; mostly there is none, and this is asked for each task.
        return not self._commits or not any(self._lines.get((group, priority)) for priority in Priority)

    def hand(self, submissions: Sequence[Submission], answers: Sequence[Accepted | MeshError]) -> None:
        """Publishes the pointers of those that were accepted for the short way, as soon as there is room."""
        by_place: defaultdict[Place, list[WaitingPointer]] = defaultdict(list)
        counts: Counter[int] = Counter()
        for submission, answer in zip(submissions, answers, strict=True):
            if isinstance(answer, Accepted) and answer.pointer_seq:
                by_place[submission.group, submission.priority].append(_pointer(submission, answer))
                counts[answer.pointer_seq] += 1
        now = self._clock.monotonic()
        for seq, count in counts.items():
            self._commits[seq] = _Commit(began_at=now, pointers=count, left=count)
            self._nothing_left.clear()
        for place, pointers in by_place.items():
            line = self._lines[place]
            # Behind others it waits for the feeder's next look: that sees first to what others have put in the table.
            was_empty = not line
            line.put(pointers)
            if was_empty:
                self._go_on(place)
        if any(self._lines.values()):
            self._untidy.set()

    def _go_on(self, place: Place) -> None:
        """Publishes what waits for this queue, as far as there is room."""
        if (line := self._lines.get(place)) and (room := self._feeder.reserve(place, len(line))):
            self._bursts.put_nowait(line.take(room))

    async def run(self) -> None:
        """Publishes for ever, one burst at a time."""
        while True:
            burst = await self._bursts.get()
            while not self._bursts.empty() and len(burst) < _MOST_AT_ONCE:
                burst += self._bursts.get_nowait()
            await self._send(burst)

    async def _send(self, burst: list[WaitingPointer]) -> None:
        try:
            outcomes = await self._feeder.bundles.publish(burst, self._publish)
        except Unavailable as error:
            log.debug("Pointers wait for the broker", pointers=len(burst), error=str(error))
            outcomes = [False] * len(burst)
        self._settle(burst, [one for one, taken in zip(burst, outcomes, strict=True) if not taken])

    def _settle(self, pointers: Sequence[WaitingPointer], refused: Sequence[WaitingPointer]) -> None:
        """These were taken, but for those that were refused: they wait in the table, and what is accepted later too."""
        for one in refused:
            self._feeder.hold(one.group, one.priority)
            self._commits[one.seq].refused.append(one)
        for seq, count in Counter(one.seq for one in pointers).items():
            commit = self._commits[seq]
            commit.left -= count
            if not commit.left:
                self._settled[seq] = self._commits.pop(seq)
        if not self._commits:
            self._nothing_left.set()
        self._untidy.set()

    async def tidy(self) -> None:
        """Deletes the rows of what was published for ever, and leaves to the feeder what was not, or waits too long."""
        failures = 0
        while True:
            await self._untidy.wait()
            await asyncio.sleep(_TIDY_EVERY_SECONDS)
            self._untidy.clear()
            self._give_up(self._clock.monotonic() - _MOST_WAIT_SECONDS)
            try:
                await self._store_settled()
            except Unavailable as error:
                if failures == 0:
                    log.warning("Rows of published pointers wait", error=str(error))
                failures += 1
                self._untidy.set()
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                continue
            failures = 0
            if any(self._lines.values()):
                self._untidy.set()

    def _give_up(self, latest: float) -> None:
        """Where one has waited since then, or too many wait, the queue is slow: all wait in the table from now on."""
        for line in self._lines.values():
            # Commits that were written at once had not seen each other.
            if len(line) > MOST_AHEAD or any(self._commits[one.seq].began_at <= latest for one in line.firsts()):
                left = line.take(len(line))
                self._settle(left, left)

    async def _store_settled(self) -> None:
        async with self._storing:
            await self._store_these()

    async def _store_these(self) -> None:
        settled, self._settled = self._settled, {}
        if not settled:
            return
        refused = [one for commit in settled.values() for one in commit.refused]
        # As they were accepted: neither the commits nor their pointers were settled in that order.
        refused.sort(key=lambda one: (one.seq, one.task_id))
        try:
            await self._store.settle_direct({seq: commit.pointers for seq, commit in settled.items()}, refused)
        except Unavailable:
            self._settled = settled | self._settled
            raise
        if refused:
            self._feeder.wake()

    async def close(self) -> None:
        """Leaves to other processes what waits here. Without it they would notice two seconds later."""
        self._closed = True
        self._give_up(self._clock.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSES_WITHIN_SECONDS):
                # What was published is confirmed a moment later.
                await self._nothing_left.wait()
        try:
            await self._store_settled()
        except Unavailable as error:
            log.warning("Rows of published pointers wait for other processes", error=str(error))


def _pointer(submission: Submission, accepted: Accepted) -> WaitingPointer:
    task = accepted.task
    return WaitingPointer(
        lane="",
        group=submission.group,
        priority=task.priority,
        owner_id=task.owner_id,
        seq=accepted.pointer_seq,
        task_id=task.task_id,
        attempt=task.attempt,
        traceparent=task.traceparent,
        at=task.created_at,
    )
