"""What one worker holds, and what it held a while ago. Pure; time is an argument."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

Key = tuple[str, int]
_MOST_PAST = 4096


@dataclass(slots=True, kw_only=True)
class Holding:
    """An attempt that the worker holds.

    Attributes:
        accept_by: monotonic seconds until which it is to be accepted; None when it is, or need not be.
        settling: its outcome is on its way to the tasks service.
        cancel_told: the worker was asked to stop.
    """

    key: Key
    accept_by: float | None = None
    settling: bool = False
    cancel_told: bool = False


class Holdings:
    """By task: a session holds one attempt of a task at a time."""

    def __init__(self) -> None:
        self._held: dict[str, Holding] = {}
        # Attempts that were held: whether their outcome is stored. A worker may speak of them for a while.
        self._past: OrderedDict[Key, bool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def keys(self) -> set[Key]:
        """What is held now."""
        return {holding.key for holding in self._held.values()}

    @property
    def idle_keys(self) -> set[Key]:
        """Of these no outcome is on its way."""
        return {holding.key for holding in self._held.values() if not holding.settling}

    def take(self, key: Key, accept_by: float | None) -> None:
        """The worker holds an attempt from now on."""
        self._held[key[0]] = Holding(key=key, accept_by=accept_by)

    def of_task(self, task_id: str) -> Holding | None:
        """The attempt of a task that is held."""
        return self._held.get(task_id)

    def find(self, key: Key) -> Holding | None:
        """That attempt, while it is held."""
        holding = self._held.get(key[0])
        return holding if holding is not None and holding.key == key else None

    def accept(self, key: Key) -> None:
        """The worker has begun, or said otherwise that it knows of it."""
        holding = self.find(key)
        if holding is not None:
            holding.accept_by = None

    def release(self, key: Key, *, stored: bool) -> None:
        """It is not held any more; `stored`: its outcome is committed."""
        if self.find(key) is not None:
            del self._held[key[0]]
        self._past[key] = stored
        self._past.move_to_end(key)
        if len(self._past) > _MOST_PAST:
            self._past.popitem(last=False)

    @property
    def past(self) -> Mapping[Key, bool]:
        """Attempts that were held: whether their outcome is stored."""
        return self._past

    def remember(self, past: Mapping[Key, bool]) -> None:
        """What the same worker held over a connection before this one."""
        self._past.update(past)

    def was_stored(self, key: Key) -> bool | None:
        """Of an attempt that was held: whether its outcome is stored. None for one that never was."""
        return self._past.get(key)

    def postpone(self, seconds: float) -> None:
        """Nobody could be heard for so long: whoever is to accept has that much longer."""
        for holding in self._held.values():
            if holding.accept_by is not None:
                holding.accept_by += seconds

    def unaccepted(self, now: float) -> set[Key]:
        """Attempts that should have been accepted by now."""
        return {
            holding.key
            for holding in self._held.values()
            if holding.accept_by is not None and holding.accept_by <= now and not holding.settling
        }
