"""What waits in one queue group: as it was read last, and what this process has added since."""

from collections.abc import Iterable, Sequence

from services.tasks.model.figures import Depth, Rate, estimate_seconds
from services.tasks.model.states import Priority
from services.tasks.operations.congestion import Congestion

# Where those are counted that wait for their time or for others; the classes begin at 1.
_SCHEDULED = 0
_PLACES = max(Priority) + 1


class Waiting:
    """One group. Everything is counted in tasks, and asking costs the same however much waits.

    Attributes:
        entering: about to be written.
        seen: what was read last; None before.
        unread: what was added and not read yet.
        slots: of the workers that serve the group.
        rate: how fast it goes; None when nothing was measured yet.
        congestion: whether its backlog stays.
    """

    __slots__ = (
        "_added",
        "_caller_seconds",
        "_callers",
        "_counts",
        "_ended",
        "_looked_at",
        "_moved_at",
        "congestion",
        "entering",
        "rate",
        "seen",
        "slots",
        "unread",
    )

    def __init__(self) -> None:
        self.entering = 0
        self.seen: int | None = None
        self.unread = 0
        self.slots = 0
        self.rate: Rate | None = None
        self.congestion = Congestion()
        # Of what enters, what was submitted one by one; when that changed last, and its sum over time.
        self._callers = 0
        self._caller_seconds = 0.0
        self._moved_at = 0.0
        # When the last look was, and how many had ended by then in all.
        self._looked_at: float | None = None
        self._ended = 0
        self._counts = [0] * _PLACES
        self._added = [0] * _PLACES

    @property
    def count(self) -> int:
        """Tasks that wait for anything but their end."""
        return sum(self._counts)

    def enter(self, now: float) -> None:
        """One that was submitted alone is about to be written."""
        self._weigh(now)
        self.entering += 1
        self._callers += 1

    def leave(self, now: float) -> None:
        """It is written, or will not be."""
        self._weigh(now)
        self.entering -= 1
        self._callers -= 1

    def _weigh(self, now: float) -> None:
        self._caller_seconds += self._callers * (now - self._moved_at)
        self._moved_at = now

    @property
    def added(self) -> Sequence[int]:
        """What was added until now and not read yet, for `look`."""
        return tuple(self._added)

    def add(self, priority: Priority | None) -> None:
        """Counts a new task of a class; None: one that waits for its time or for others."""
        place = _SCHEDULED if priority is None else priority
        self._counts[place] += 1
        self._added[place] += 1
        self.unread += 1

    def place(self, priority: Priority) -> tuple[int, float]:
        """The position of the last of a class in its queue, from 1, and the seconds until it should have ended."""
        position = max(self._counts[priority], 1)
        ahead = position - 1 + sum(self._counts[priority + 1 :])
        return position, estimate_seconds(ahead, self.slots, self.rate)

    def hold_seconds(self, priority: Priority) -> float:
        """How long who submits with this class is held for the work to catch up; what only lower ones wait for is no
        reason.
        """
        congestion = self.congestion
        if congestion.seconds and not congestion.is_few(congestion.backlog):
            return 0.0 if congestion.is_few(sum(self._counts[priority:])) else congestion.seconds
        return congestion.seconds

    def look(self, depths: Iterable[Depth], seen: Sequence[int], now: float) -> None:
        """Takes over what was read, which has in it all that was `added` before, and perhaps more; `slots` and `rate`
        are of this look already.
        """
        self._added = [added - read for added, read in zip(self._added, seen, strict=True)]
        self._counts = list(self._added)
        self.unread = sum(self._added)
        for depth in depths:
            self._counts[depth.priority] += depth.queued
            self._counts[_SCHEDULED] += depth.scheduled
        self.seen = self.count - self.unread
        backlog = sum(self._counts[_SCHEDULED + 1 :]) - sum(self._added[_SCHEDULED + 1 :])
        callers, speed = self._measure(now)
        self.congestion.look(backlog, self.slots, callers, speed)

    def _measure(self, now: float) -> tuple[float, float]:
        """How many submitted one task each at any moment since the last look, and how many tasks ended in a second."""
        self._weigh(now)
        before, self._looked_at = self._looked_at, now
        summed, self._caller_seconds = self._caller_seconds, 0.0
        ended, self._ended = self._ended, 0 if self.rate is None else self.rate.ended
        if before is None or now <= before:
            return 0.0, 0.0
        return summed / (now - before), max(0, self._ended - ended) / (now - before)


NOTHING_SEEN: Sequence[int] = (0,) * _PLACES
