"""What goes on by itself, in every process at once: sweeps, timers, pointers that the broker lost, pruning, figures.

Each loop survives a store or broker that is away: it says so once, and goes on when it is back.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from chassis.clock import Clock
from chassis.errors import MeshError
from chassis.logging import get_logger
from services.tasks.model import rules
from services.tasks.model.states import Priority
from services.tasks.model.task import Change, Live
from services.tasks.operations.desk import LEASE_SECONDS
from services.tasks.operations.figures import Figures
from services.tasks.ports import UpkeepStore, WorkQueues

log = get_logger(__name__)

SWEEP_EVERY_SECONDS = 0.5
TIMERS_EVERY_SECONDS = 0.25
OVERDUE_EVERY_SECONDS = 1.0
RECONCILE_EVERY_SECONDS = 0.5
FIGURES_EVERY_SECONDS = 0.5
PRUNE_EVERY_SECONDS = 30.0
KEEP_DAYS_EVERY_SECONDS = 600.0
DAYS_AHEAD = 7
# How long a pointer may be on its way before its task counts as forgotten, once the broker's queue is empty.
FORGOTTEN_AFTER_SECONDS = 5.0
_FORGOTTEN_EVERY_ROUNDS = 10
# A worker that vanished is sent pointers until the broker misses it too. So for a minute after a loss, a pointer in its
# queues that nobody claims at once is sent again; the next one goes to another worker.
_SWALLOWED_AFTER_SECONDS = 0.4
_SUSPECT_ROUNDS = 120
CANCEL_GRACE_SECONDS = 10.0
_BATCH = 200
_POINTERS = 1000
# Few pointers are with the broker at a time, so that one this old is either lost or behind long work; a second one does
# no harm then.
_STALE_AFTER_SECONDS = 60.0
_STALE_EVERY_ROUNDS = 120


class Upkeep:
    """The loops of one process.

    Args:
        instance: this process, in the tallies.
        retained_days: how long tasks that have ended are kept.
    """

    def __init__(
        self,
        store: UpkeepStore,
        figures: Figures,
        *,
        queues: WorkQueues,
        instance: str,
        clock: Clock,
        retained_days: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._retained_days = retained_days
        self._figures = figures
        self._queues = queues
        self._instance = instance
        # The next round is one in which everything is looked at.
        self._rounds = -1
        self._suspects: dict[tuple[str, Priority], int] = {}
        self._timers_due = asyncio.Event()

    def wake_timers(self) -> None:
        """A timer was set that is due already."""
        self._timers_due.set()

    def loops(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """The loops by name; each runs for ever."""
        return {
            "sweeper": lambda: repeat("sweeper", SWEEP_EVERY_SECONDS, self.sweep),
            "timers": lambda: repeat("timers", TIMERS_EVERY_SECONDS, self.release, self._timers_due),
            "overdue": lambda: repeat("overdue", OVERDUE_EVERY_SECONDS, self.end_overdue),
            "reconciler": lambda: repeat("reconciler", RECONCILE_EVERY_SECONDS, self.reconcile),
            "figures": lambda: repeat("figures", FIGURES_EVERY_SECONDS, self.refresh),
            "history": lambda: repeat("history", KEEP_DAYS_EVERY_SECONDS, self.keep_days),
            "pruning": lambda: repeat("pruning", PRUNE_EVERY_SECONDS, self.prune),
        }

    async def sweep(self) -> bool:
        """Takes attempts from sessions that are over. True when there may be more."""
        changes = await self._store.sweep_lost(rules.lose, LEASE_SECONDS, _BATCH)
        self._suspects.update({(change.live.group, change.live.priority): _SUSPECT_ROUNDS for change in changes})
        return self._counted(changes)

    async def release(self) -> bool:
        """Queues what waited for its time, and ends what is past its deadline. True when there may be more."""
        timers, changes = await self._store.release_due(rules.release, rules.expire, _BATCH)
        self._counted(changes)
        return timers >= _BATCH

    async def end_overdue(self) -> bool:
        """Ends attempts whose worker neither ended nor stopped them. True when there may be more."""
        changes = await self._store.sweep_overdue(
            self._time_out, rules.stop, grace_seconds=CANCEL_GRACE_SECONDS, limit=_BATCH
        )
        return self._counted(changes)

    def _time_out(self, live: Live) -> Change:
        return rules.time_out(live, self._figures.retry_of(live.kind), random.random())  # noqa: S311 - not a secret

    async def reconcile(self) -> bool:
        """New pointers for tasks whose pointers the broker lost: queued for a while although their queue is empty."""
        self._rounds = (self._rounds + 1) % _STALE_EVERY_ROUNDS
        total = await self._point_at_empty(list(self._suspects), _SWALLOWED_AFTER_SECONDS)
        self._suspects = {queue: left - 1 for queue, left in self._suspects.items() if left > 1}
        if self._rounds % _FORGOTTEN_EVERY_ROUNDS == 0:
            waiting = [(depth.group, depth.priority) for depth in self._figures.summary.depths if depth.queued]
            total += await self._point_at_empty(waiting, FORGOTTEN_AFTER_SECONDS)
            # A queue that lost something may have been filled again before anybody looked.
            total += await self._point_again(waiting, _STALE_AFTER_SECONDS) if self._rounds == 0 else 0
        if total:
            log.info("Tasks that nobody claimed are pointed at again", tasks=total)
        return False

    async def _point_at_empty(self, queues: Sequence[tuple[str, Priority]], older_seconds: float) -> int:
        empty = await self._queues.find_empty(queues) if queues else []
        return await self._point_again(empty, older_seconds) if empty else 0

    async def _point_again(self, queues: Sequence[tuple[str, Priority]], older_seconds: float) -> int:
        # All of them in one go: as soon as the first pointers are out, their queue is not empty any more.
        total, pointed = 0, _POINTERS
        while pointed == _POINTERS:
            pointed = await self._store.point_again(queues, older_seconds, _POINTERS)
            total += pointed
        return total

    async def refresh(self) -> bool:
        """Reads the figures anew; another process may have made a new group known."""
        await self._figures.refresh(self._instance)
        await self._queues.declare(self._figures.groups)
        return False

    async def keep_days(self) -> bool:
        """Makes the days that come, and drops those that nobody needs any more."""
        await self._store.keep_days(self._clock.now(), ahead=DAYS_AHEAD, retained=self._retained_days)
        return False

    async def prune(self) -> bool:
        """Forgets what is over."""
        await self._store.fold_tallies()
        await self._store.prune()
        return False

    def _counted(self, changes: Sequence[Change]) -> bool:
        self._figures.count_changes(changes)
        return len(changes) >= _BATCH


async def repeat(
    name: str, every_seconds: float, once: Callable[[], Awaitable[bool]], awake: asyncio.Event | None = None
) -> None:
    """Does it for ever, at once again when it says that there is more, or when it is woken; outlives every outage."""
    failing = False
    while True:
        more = False
        if awake is not None:
            awake.clear()
        try:
            more = await once()
            failing = False
        except MeshError as error:
            # What is behind the ports is away; its own health check says so too.
            if not failing:
                log.warning("Upkeep is held up", loop=name, error=str(error))
            failing = True
        if not more:
            await _rest(every_seconds, awake)


async def _rest(seconds: float, awake: asyncio.Event | None) -> None:
    if awake is None:
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await awake.wait()
