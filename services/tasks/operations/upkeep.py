"""What goes on by itself, in every process at once: sweeps, timers, pointers that the broker lost, pruning, figures.

Each loop survives a store or broker that is away: it says so once, and goes on when it is back.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from chassis.errors import MeshError
from chassis.logging import get_logger
from services.tasks.model import rules
from services.tasks.model.task import Change, Live
from services.tasks.operations.figures import Figures
from services.tasks.ports import Backlog, UpkeepStore, WorkQueues

log = get_logger(__name__)

SWEEP_EVERY_SECONDS = 0.5
TIMERS_EVERY_SECONDS = 0.25
OVERDUE_EVERY_SECONDS = 1.0
RECONCILE_EVERY_SECONDS = 5.0
FIGURES_EVERY_SECONDS = 0.5
PRUNE_EVERY_SECONDS = 30.0
# How long a pointer may be on its way before its task counts as forgotten, once the broker's queue is empty.
FORGOTTEN_AFTER_SECONDS = 5.0
CANCEL_GRACE_SECONDS = 10.0
_BATCH = 200
_POINTERS = 1000
# Messages that wait to be published: with so many the broker is away or behind, and nothing is forgotten.
_FLOODED = 2000


class Upkeep:
    """The loops of one process.

    Args:
        backlog: messages that wait to be published; while there are many, nothing is taken for forgotten.
        instance: this process, in the tallies.
    """

    def __init__(
        self, store: UpkeepStore, figures: Figures, *, backlog: Backlog, queues: WorkQueues, instance: str
    ) -> None:
        self._store = store
        self._figures = figures
        self._backlog = backlog
        self._queues = queues
        self._instance = instance

    def loops(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """The loops by name; each runs for ever."""
        return {
            "sweeper": lambda: _repeat("sweeper", SWEEP_EVERY_SECONDS, self.sweep),
            "timers": lambda: _repeat("timers", TIMERS_EVERY_SECONDS, self.release),
            "overdue": lambda: _repeat("overdue", OVERDUE_EVERY_SECONDS, self.end_overdue),
            "reconciler": lambda: _repeat("reconciler", RECONCILE_EVERY_SECONDS, self.reconcile),
            "figures": lambda: _repeat("figures", FIGURES_EVERY_SECONDS, self.refresh),
            "pruning": lambda: _repeat("pruning", PRUNE_EVERY_SECONDS, self.prune),
        }

    async def sweep(self) -> bool:
        """Takes attempts from sessions that are over. True when there may be more."""
        return self._counted(await self._store.sweep_lost(rules.lose, _BATCH))

    async def release(self) -> bool:
        """Queues what waited for its time, and ends what is past its deadline. True when there may be more."""
        timers, changes = await self._store.release_due(rules.release, rules.expire, _BATCH)
        self._counted(changes)
        return timers >= _BATCH

    async def end_overdue(self) -> bool:
        """Ends attempts whose worker neither ended nor stopped them. True when there may be more."""
        changes = await self._store.sweep_overdue(
            _time_out, rules.stop, grace_seconds=CANCEL_GRACE_SECONDS, limit=_BATCH
        )
        return self._counted(changes)

    async def reconcile(self) -> bool:
        """New pointers for tasks whose pointers the broker lost: queued for a while although their queue is empty."""
        if self._backlog() >= _FLOODED:
            return False
        waiting = [(depth.group, depth.priority) for depth in self._figures.summary.depths if depth.queued]
        empty = await self._queues.find_empty(waiting) if waiting else []
        if not empty:
            return False
        total, pointed = 0, _POINTERS
        # All of them in one go: as soon as the first pointers are out, their queue is not empty any more.
        while pointed == _POINTERS:
            pointed = await self._store.point_again(empty, FORGOTTEN_AFTER_SECONDS, _POINTERS)
            total += pointed
        if total:
            log.warning("Tasks were queued without a pointer", tasks=total)
        return False

    async def refresh(self) -> bool:
        """Reads the figures anew; another process may have made a new group known."""
        await self._figures.refresh(self._instance)
        await self._queues.declare(self._figures.groups)
        return False

    async def prune(self) -> bool:
        """Forgets what is over."""
        await self._store.fold_tallies()
        await self._store.prune()
        return False

    def _counted(self, changes: Sequence[Change]) -> bool:
        self._figures.count_changes(changes)
        return len(changes) >= _BATCH


def _time_out(live: Live) -> Change:
    return rules.time_out(live, random.random())  # noqa: S311 - not a secret


async def _repeat(name: str, every_seconds: float, once: Callable[[], Awaitable[bool]]) -> None:
    failing = False
    while True:
        more = False
        try:
            more = await once()
            failing = False
        except MeshError as error:
            # What is behind the ports is away; its own health check says so too.
            if not failing:
                log.warning("Upkeep is held up", loop=name, error=str(error))
            failing = True
        if not more:
            await asyncio.sleep(every_seconds)
