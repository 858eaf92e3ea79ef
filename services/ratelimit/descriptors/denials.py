"""Counters that are known to be over their limit until their window ends, so that a flood costs the store nothing.

Exact: what denied requests count in a fixed window only grows, so who is over stays over until the window ends, under
this limit and every smaller one; a larger one is asked about anew. Ends a little early and never late.
"""

from collections.abc import Callable

# What an entry takes in memory, about: a key, two numbers, their place in the table.
_ENTRY_BYTES = 256


class Denials:
    """At most as many as fit in `size_bytes`; 0 switches it off.

    Args:
        monotonic: seconds that only go forward.
    """

    def __init__(self, size_bytes: int, monotonic: Callable[[], float]) -> None:
        self._most = size_bytes // _ENTRY_BYTES
        self._monotonic = monotonic
        self._known: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    @property
    def now_seconds(self) -> float:
        """Now, to be given to `remember` by who is about to ask the store."""
        return self._monotonic()

    def holds(self, key: str, capacity: int) -> bool:
        """Whether the counter is over a limit of that capacity."""
        known = self._known.get(key)
        if known is None:
            return False
        if known[1] <= self._monotonic():
            del self._known[key]
            return False
        return capacity <= known[0]

    def remember(self, key: str, capacity: int, *, asked_at_seconds: float, reset_us: int) -> None:
        """The store said that the counter is over, and when its window ends, to a question of that moment."""
        if self._most == 0:
            return
        if len(self._known) >= self._most and key not in self._known:
            # Those that were learnt first are the likeliest to be over.
            del self._known[next(iter(self._known))]
        self._known[key] = (capacity, asked_at_seconds + reset_us / 1_000_000)

    def forget(self, key: str) -> None:
        """Something is given back to the counter."""
        self._known.pop(key, None)
