"""What was measured, kept at hand: known kinds, queue depths, workers, rates, and what this process adds meanwhile."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

from chassis.clock import Clock
from chassis.errors import Exhausted, Invalid
from services.tasks.model.figures import (
    Channel,
    ChannelTally,
    Depth,
    GroupFigures,
    Overview,
    Rate,
    Tallies,
    Tally,
)
from services.tasks.model.states import Priority, State
from services.tasks.model.task import Accepted, Change, Kind, RetryPolicy, Submission
from services.tasks.model.work import End, Worker
from services.tasks.operations.waiting import NOTHING_SEEN, Waiting
from services.tasks.ports import Backlog, UpkeepStore

_RETRY_AFTER_SECONDS = 1.0
_MOST_NAMED_KINDS = 50
# Others accept as much between two looks, and nobody hears of it before the next: within so many of a bound, and past
# this part of the room that was seen last, tasks are counted where they are written. So four processes that begin
# together never fill what only one of them could.
_UNHEARD = 5000
_SHARE = 4
_FAILED = frozenset({State.FAILED, State.DEAD, State.EXPIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many tasks may wait in a group: `most`, unless `by_group` says otherwise."""

    most: int
    by_group: Mapping[str, int] = field(default_factory=dict)

    def of(self, group: str) -> int:
        """The bound of a group."""
        return self.by_group.get(group, self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One look at everything, at most a second old."""

    depths: Sequence[Depth] = ()
    channels: Sequence[Channel] = ()
    workers: Sequence[Worker] = ()
    rates: Sequence[Rate] = ()


@dataclass(slots=True)
class _Sum:
    ended: int = 0
    failed: int = 0
    seconds: float = 0.0

    def add(self, *, failed: bool, seconds: float) -> None:
        self.ended += 1
        self.failed += failed
        self.seconds += seconds


@dataclass(slots=True)
class _Pending:
    """What this process saw since its figures were last read or written."""

    groups: defaultdict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    channels: defaultdict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    sessions: defaultdict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))

    def tallies(self) -> Tallies:
        return Tallies(
            groups=[
                Tally(group=group, ended=s.ended, failed=s.failed, busy_seconds=s.seconds)
                for group, s in sorted(self.groups.items())
            ],
            channels=[
                ChannelTally(channel=channel, ended=s.ended, failed=s.failed, response_seconds=s.seconds)
                for channel, s in sorted(self.channels.items())
            ],
            sessions={session_id: (s.ended, s.seconds) for session_id, s in self.sessions.items()},
        )


class Figures:
    """Refreshed in the background and counted on in between, so that neither admission nor an estimate costs a query.

    Args:
        limits: tasks that may wait in one group, all classes together.
        most_unpublished: messages that may wait for the broker.
    """

    def __init__(
        self, store: UpkeepStore, clock: Clock, backlog: Backlog, *, limits: Limits, most_unpublished: int
    ) -> None:
        self._store = store
        self._clock = clock
        self._backlog = backlog
        self.limits = limits
        self._most_unpublished = most_unpublished
        self._kinds: dict[str, Kind] = {}
        self._kinds_read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._pending = _Pending()
        self._waiting: defaultdict[str, Waiting] = defaultdict(Waiting)
        self.summary = Summary()

    async def find_kind(self, name: str) -> Kind:
        """A kind somebody announced. Raises Invalid (``UNKNOWN_KIND``, details ``known``) for any other."""
        kind = self._kinds.get(name)
        if kind is None:
            asked_at = self._clock.monotonic()
            # A worker may have announced it to another process a moment ago. However many ask, one read serves all who
            # came before it began, so wrong names are no load.
            async with self._reading:
                if self._kinds_read_at <= asked_at:
                    await self.read_kinds()
            kind = self._kinds.get(name)
        if kind is None:
            known = ", ".join(self.known_kinds[:_MOST_NAMED_KINDS])
            raise Invalid(f"Unknown kind of task; known are {known}", code="UNKNOWN_KIND", details={"known": known})
        return kind

    def known_kind(self, name: str) -> Kind | None:
        """A kind, as far as this process has heard of it."""
        return self._kinds.get(name)

    def retry_of(self, kind: str) -> RetryPolicy:
        """How a kind is tried again; the default for one that this process has not heard of yet."""
        known = self._kinds.get(kind)
        return RetryPolicy() if known is None else known.retry

    @property
    def any_bounds(self) -> bool:
        """Whether any kind may only run so many times at once."""
        return any(kind.max_running for kind in self._kinds.values())

    @property
    def known_kinds(self) -> list[str]:
        """The names of all kinds, sorted."""
        return sorted(self._kinds)

    @property
    def groups(self) -> list[str]:
        """All queue groups, sorted."""
        return sorted({kind.group for kind in self._kinds.values()})

    async def read_kinds(self) -> None:
        """Reads the kinds again."""
        began_at = self._clock.monotonic()
        self._kinds = {kind.kind: kind for kind in await self._store.read_kinds()}
        self._kinds_read_at = began_at

    @contextmanager
    def admitted(self, groups: Sequence[str]) -> Iterator[None]:
        """A place in its group for each task that is about to be written. Nothing is written without.

        Raises Exhausted (``QUEUE_FULL``) when no more may wait.
        """
        wanted = Counter(groups)
        for group, count in wanted.items():
            self._check_room(group, count)
        for group, count in wanted.items():
            self._waiting[group].entering += count
        try:
            yield
        finally:
            for group, count in wanted.items():
                self._waiting[group].entering -= count

    def enter(self, group: str) -> None:
        """The same for one task; `leave` has to follow when it is written, or will not be."""
        self._check_room(group, 1)
        self._waiting[group].enter(self._clock.monotonic())

    def leave(self, group: str) -> None:
        """Ends what `enter` began."""
        self._waiting[group].leave(self._clock.monotonic())

    def _check_room(self, group: str, count: int) -> None:
        waiting = self._waiting[group]
        taken = waiting.count + waiting.entering
        if taken + count > self.limits.of(group) or self._backlog() >= self._most_unpublished:
            raise Exhausted("The queue is full", code="QUEUE_FULL", retry_after_seconds=_RETRY_AFTER_SECONDS)

    def bound_of(self, group: str) -> int:
        """The bound of a group, when other processes may fill it before this one hears of it; else 0."""
        limit, waiting = self.limits.of(group), self._waiting[group]
        if waiting.seen is None:
            return limit
        room, mine = limit - waiting.seen, waiting.unread + waiting.entering
        return 0 if mine < room // _SHARE and mine + _UNHEARD < room else limit

    def count_waiting(self, group: str) -> int:
        """Tasks of a group that wait for anything but their end."""
        return self._waiting[group].count

    def hold_seconds(self, group: str, priority: Priority) -> float:
        """How long who submits to a group is held because acceptance outruns its work; 0: not at all, as where nobody
        knows how fast that is.
        """
        waiting = self._waiting[group]
        seconds = waiting.hold_seconds(priority)
        return seconds if seconds and waiting.rate is not None and waiting.rate.mean_run_seconds else 0.0

    def slots_within(self, group: str, seconds: float) -> float:
        """How many slots its workers should free in so many seconds if all of them are busy; inf: nobody knows, for
        none of its tasks has ended, or its first worker came a moment ago.
        """
        waiting = self._waiting[group]
        if waiting.rate is None or not waiting.rate.mean_run_seconds or not waiting.slots:
            return inf
        return waiting.slots * seconds / waiting.rate.mean_run_seconds

    def count_accepted(self, submission: Submission, accepted: Accepted) -> tuple[int, float]:
        """Counts a new task. Answers its position in its queue, from 1, and the seconds until it should have ended."""
        waiting = self._waiting[submission.group]
        if accepted.is_new and not accepted.held_by:
            waiting.add(submission.priority if accepted.task.state is State.QUEUED else None)
        return waiting.place(submission.priority)

    def overview(self) -> Overview:
        """Everything at once."""
        summary = self.summary
        rates = {rate.group: rate for rate in summary.rates}
        groups = sorted({*self.groups, *rates})
        return Overview(
            depths=summary.depths,
            workers=summary.workers,
            groups=[self._group(group, rates.get(group)) for group in groups],
            known_kinds=self.known_kinds,
            unpublished=self._backlog(),
        )

    def _group(self, group: str, rate: Rate | None) -> GroupFigures:
        return GroupFigures(
            waiting=self.count_waiting(group),
            limit=self.limits.of(group),
            running=sum(depth.running for depth in self.summary.depths if depth.group == group),
            slots=self._waiting[group].slots,
            rate=rate or Rate(group=group, ended_per_second=0.0, mean_run_seconds=0.0, ended=0, failed=0),
        )

    def count_changes(self, changes: Sequence[Change]) -> None:
        """Counts the tasks among these that ended."""
        self.count_ends([_end_of(change) for change in changes if change.to.is_end])

    def count_ends(self, ends: Sequence[End]) -> None:
        """Counts tasks that ended."""
        for end in ends:
            if end.session_id is not None:
                self._pending.sessions[end.session_id].add(failed=end.failed, seconds=end.busy_seconds)
            self._pending.groups[end.group].add(failed=end.failed, seconds=end.busy_seconds)
            if end.channel:
                self._pending.channels[end.channel].add(failed=end.failed, seconds=end.response_seconds)

    async def refresh(self, instance: str) -> None:
        """Writes what was counted and reads everything anew."""
        pending, self._pending = self._pending, _Pending()
        if pending.groups:
            await self._store.add_tallies(instance, pending.tallies())
        await self.read_kinds()
        workers, rates = await self._store.read_workers(), await self._store.read_rates()
        # What was counted before the read is in its answer; what comes meanwhile may be there too, and is counted twice
        # until the next read rather than never.
        seen = {group: waiting.added for group, waiting in self._waiting.items()}
        depths, channels = await self._store.read_depths()
        self.summary = Summary(depths=depths, channels=channels, workers=workers, rates=rates)
        self._look(seen)

    def _look(self, seen: Mapping[str, Sequence[int]]) -> None:
        now = self._clock.monotonic()
        depths: defaultdict[str, list[Depth]] = defaultdict(list)
        for depth in self.summary.depths:
            depths[depth.group].append(depth)
        slots: Counter[str] = Counter()
        for worker in self.summary.workers:
            if not worker.draining:
                slots.update(dict.fromkeys(worker.groups, worker.slots))
        rates = {rate.group: rate for rate in self.summary.rates}
        for group in {*self._waiting, *depths, *slots, *rates}:
            waiting = self._waiting[group]
            waiting.slots, waiting.rate = slots[group], rates.get(group)
            waiting.look(depths[group], seen.get(group, NOTHING_SEEN), now)


def _end_of(change: Change) -> End:
    live = change.live
    ran = live.session_id is not None and live.started_at is not None
    return End(
        group=live.group,
        channel=live.channel,
        session_id=live.session_id if ran else None,
        failed=change.to in _FAILED,
        busy_seconds=(live.now - live.started_at).total_seconds() if ran and live.started_at else 0.0,
        response_seconds=(live.now - live.created_at).total_seconds(),
    )
