"""Pointers of one queue travel together: as many in a message as its workers take in a few milliseconds.

A message costs the broker and the worker about the same whether it carries one pointer or sixteen. But what a worker
has received no other takes, so a queue that moves slowly gets its pointers one by one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from services.tasks.model.states import Priority
from services.tasks.model.work import WaitingPointer
from services.tasks.ports import PublishBundles

_MOST = 16
# A bundle is what the workers of its queue take in this time, all together.
_SECONDS = 0.005
# How fast the measured pace follows: half of a change after about a fifth of this.
_MEMORY_SECONDS = 0.25


@dataclass(slots=True)
class Pace:
    """How fast one queue moves.

    Attributes:
        per_second: pointers published, a mean of the last moments.
        each: pointers in a message, as they were published between the last two looks.
    """

    per_second: float = 0.0
    each: float = 1.0
    pointers: int = 0
    messages: int = 0
    looked_at: float | None = None

    @property
    def most(self) -> int:
        """The size of a bundle."""
        return max(1, min(round(self.per_second * _SECONDS), _MOST))

    def look(self, now: float) -> None:
        """Takes into account what was published since the last time."""
        seconds = 0.0 if self.looked_at is None else now - self.looked_at
        if seconds > 0:
            self.per_second += (self.pointers / seconds - self.per_second) * min(1.0, seconds / _MEMORY_SECONDS)
        if self.messages:
            self.each = self.pointers / self.messages
        self.pointers = self.messages = 0
        self.looked_at = now


class Bundles:
    """Makes bundles, and measures what for."""

    def __init__(self) -> None:
        self._paces: defaultdict[tuple[str, Priority], Pace] = defaultdict(Pace)

    def measure(self, group: str, priority: Priority, messages: int, now: float) -> int:
        """How many pointers these messages of a queue hold, about; to be asked at every look at it."""
        pace = self._paces[group, priority]
        pace.look(now)
        return round(messages * pace.each)

    async def publish(self, pointers: Sequence[WaitingPointer], publish: PublishBundles) -> list[bool]:
        """Publishes pointers, those of a queue in their order, and says of each whether the broker took it.

        Raises what `publish` does.
        """
        bundles = self._bundle(pointers)
        outcomes = await publish(bundles)
        if all(outcomes):
            return [True] * len(pointers)
        # By what was published: those of one commit on the short way share their row, and so its number.
        taken = {
            (one.task_id, one.attempt) for bundle, ok in zip(bundles, outcomes, strict=True) if ok for one in bundle
        }
        return [(one.task_id, one.attempt) in taken for one in pointers]

    def _bundle(self, pointers: Sequence[WaitingPointer]) -> list[list[WaitingPointer]]:
        by_queue: defaultdict[tuple[str, Priority], list[WaitingPointer]] = defaultdict(list)
        for one in pointers:
            by_queue[one.group, one.priority].append(one)
        bundles: list[list[WaitingPointer]] = []
        for queue, mine in by_queue.items():
            pace = self._paces[queue]
            most = pace.most
            cut = [mine[start : start + most] for start in range(0, len(mine), most)]
            pace.messages += len(cut)
            pace.pointers += len(mine)
            bundles += cut
        return bundles
