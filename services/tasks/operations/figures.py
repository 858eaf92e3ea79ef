"""What was measured, kept at hand: known kinds, queue depths, workers, rates, and what this process adds meanwhile."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from chassis.clock import Clock
from chassis.errors import Exhausted, Invalid
from services.tasks.model.figures import Depth, Rate, Tally, estimate_seconds
from services.tasks.model.states import Priority, State
from services.tasks.model.task import Accepted, Change, Kind, Submission
from services.tasks.model.work import Worker
from services.tasks.ports import Backlog, UpkeepStore

_RETRY_AFTER_SECONDS = 1.0
_FAILED = frozenset({State.FAILED, State.DEAD, State.EXPIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One look at everything, at most a second old."""

    depths: Sequence[Depth] = ()
    workers: Sequence[Worker] = ()
    rates: Sequence[Rate] = ()


@dataclass(slots=True)
class _Sum:
    ended: int = 0
    failed: int = 0
    busy_seconds: float = 0.0


@dataclass(slots=True)
class _Pending:
    """What this process saw since its figures were last read or written."""

    accepted: Counter[tuple[str, Priority]] = field(default_factory=Counter)
    ended: defaultdict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    finished: Counter[str] = field(default_factory=Counter)


class Figures:
    """Refreshed in the background and counted on in between, so that neither admission nor an estimate costs a query.

    Args:
        most_queued: tasks that may wait in one group, all classes together.
        most_unpublished: messages that may wait for the broker.
    """

    def __init__(
        self, store: UpkeepStore, clock: Clock, backlog: Backlog, *, most_queued: int, most_unpublished: int
    ) -> None:
        self._store = store
        self._clock = clock
        self._backlog = backlog
        self._most_queued = most_queued
        self._most_unpublished = most_unpublished
        self._kinds: dict[str, Kind] = {}
        self._kinds_read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._pending = _Pending()
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
            known = ", ".join(self.known_kinds)
            raise Invalid(f"Unknown kind of task; known are {known}", code="UNKNOWN_KIND", details={"known": known})
        return kind

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

    def admit(self, group: str) -> None:
        """Raises Exhausted (``QUEUE_FULL``) when no more may wait. Asked before anything is written."""
        queued = sum(depth.queued for depth in self.summary.depths if depth.group == group)
        queued += sum(n for (one, _), n in self._pending.accepted.items() if one == group)
        if queued >= self._most_queued or self._backlog() >= self._most_unpublished:
            raise Exhausted("The queue is full", code="QUEUE_FULL", retry_after_seconds=_RETRY_AFTER_SECONDS)

    def count_accepted(self, submission: Submission, accepted: Accepted) -> tuple[int, float]:
        """Counts a new task. Answers its position in its queue, from 1, and the seconds until it should have ended."""
        group, priority = submission.group, submission.priority
        if not accepted.replayed and accepted.task.state is State.QUEUED:
            self._pending.accepted[group, priority] += 1
        waiting = {d.priority: d.queued for d in self.summary.depths if d.group == group}
        for (one, urgency), n in self._pending.accepted.items():
            if one == group:
                waiting[urgency] = waiting.get(urgency, 0) + n
        position = max(waiting.get(priority, 0), 1)
        ahead = position - 1 + sum(n for urgency, n in waiting.items() if urgency > priority)
        slots = sum(w.slots for w in self.summary.workers if group in w.groups and not w.draining)
        rate = next((rate for rate in self.summary.rates if rate.group == group), None)
        return position, estimate_seconds(ahead, slots, rate)

    def count_changes(self, changes: Sequence[Change]) -> None:
        """Counts the tasks that ended."""
        for change in changes:
            if not change.to.is_end:
                continue
            live = change.live
            sums = self._pending.ended[live.group]
            sums.ended += 1
            sums.failed += change.to in _FAILED
            if live.session_id is not None and live.started_at is not None:
                sums.busy_seconds += (live.now - live.started_at).total_seconds()
                self._pending.finished[live.session_id] += 1

    async def refresh(self, instance: str) -> None:
        """Writes what was counted and reads everything anew."""
        pending, self._pending = self._pending, _Pending()
        tallies = [
            Tally(group=group, ended=s.ended, failed=s.failed, busy_seconds=s.busy_seconds)
            for group, s in sorted(pending.ended.items())
        ]
        if tallies:
            await self._store.add_tallies(instance, tallies, pending.finished)
        await self.read_kinds()
        self.summary = Summary(
            depths=await self._store.read_depths(),
            workers=await self._store.read_workers(),
            rates=await self._store.read_rates(),
        )
