"""The pointers that wait in this process, and which of them are next: weighted shares over the priority classes.

Pure: it knows no broker and no clock; time is an argument.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

# Shares of the starts when every class has work: critical 8 of 15, high 4, normal 2, low 1. So urgent work goes first
# and low work still gets one start in fifteen.
WEIGHTS = (8, 4, 2, 1)


class Intake(Generic[T]):
    """Waiting items by class, 0 the most urgent.

    Smooth weighted round robin: every class with work earns its weight, the one with most credit goes and pays what all
    earned. A class without work earns nothing, so it cannot save up a burst.
    """

    def __init__(self) -> None:
        self._waiting: tuple[deque[T], ...] = tuple(deque() for _ in WEIGHTS)
        self._credit = [0] * len(WEIGHTS)
        self._since: float | None = None

    def __len__(self) -> int:
        return self.count(len(WEIGHTS))

    def count(self, classes: int) -> int:
        """How many wait in so many of the most urgent classes."""
        return sum(map(len, self._waiting[:classes]))

    def stuck_seconds(self, now: float) -> float:
        """For how long something has waited while nothing was taken."""
        return 0.0 if self._since is None else now - self._since

    def put(self, item: T, priority_class: int, now: float) -> None:
        """Adds an item at the end of its class."""
        self._since = now if self._since is None else self._since
        self._waiting[priority_class].append(item)

    def take(self, most: int, now: float, classes: int = len(WEIGHTS)) -> list[tuple[T, int]]:
        """Removes at most `most` items of so many of the most urgent classes, each with its class, in the order they
        should start.
        """
        taken = [self._next(classes) for _ in range(min(most, self.count(classes)))]
        if taken:
            self._since = now if len(self) else None
        return taken

    def put_back(self, items: list[tuple[T, int]], since: float) -> None:
        """Returns what was taken to where it was; it has waited since `since`."""
        for item, priority_class in reversed(items):
            self._waiting[priority_class].appendleft(item)
        if items:
            # What was put back before, by another that took at the same time, may have waited longer.
            self._since = since if self._since is None else min(since, self._since)

    def clear(self) -> None:
        """Forgets everything."""
        for waiting in self._waiting:
            waiting.clear()
        self._since = None

    def _next(self, classes: int) -> tuple[T, int]:
        busy = [index for index, waiting in enumerate(self._waiting[:classes]) if waiting]
        for index in busy:
            self._credit[index] += WEIGHTS[index]
        chosen = max(busy, key=lambda index: (self._credit[index], -index))
        self._credit[chosen] -= sum(WEIGHTS[index] for index in busy)
        item = self._waiting[chosen].popleft()
        if not self._waiting[chosen]:
            self._credit[chosen] = 0
        return item, chosen
