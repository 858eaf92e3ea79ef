"""Pointers of one queue that wait in this process, owners in turn. Knows neither how long nor what for."""

from collections import deque
from collections.abc import Iterable, Iterator

from services.tasks.model.work import WaitingPointer


class Line:
    """Everybody's first, everybody's second, and so on; of each owner in the order in which they came."""

    def __init__(self) -> None:
        # Whose turn is next comes first.
        self._owners: dict[str, deque[WaitingPointer]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, pointers: Iterable[WaitingPointer]) -> None:
        """Adds pointers behind those of their owners."""
        for one in pointers:
            mine = self._owners.get(one.owner_id)
            if mine is None:
                mine = self._owners[one.owner_id] = deque()
            mine.append(one)
            self._count += 1

    def take(self, most: int) -> list[WaitingPointer]:
        """Takes so many out, or all there are."""
        taken: list[WaitingPointer] = []
        while self._owners and len(taken) < most:
            owner, mine = next(iter(self._owners.items()))
            del self._owners[owner]
            # Where one owner is alone there is nobody whose turn is next.
            turns = 1 if self._owners else min(most - len(taken), len(mine))
            taken.extend(mine.popleft() for _ in range(turns))
            if mine:
                self._owners[owner] = mine
        self._count -= len(taken)
        return taken

    def firsts(self) -> Iterator[WaitingPointer]:
        """Of each owner the one that has waited the longest."""
        return (mine[0] for mine in self._owners.values())
