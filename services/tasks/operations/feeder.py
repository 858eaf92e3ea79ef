"""Pointers from their table to the broker's queues, a few ahead of the workers: so an owner's turn comes soon, however
many tasks another has queued before.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from chassis.clock import Clock
from chassis.errors import Unavailable
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from services.tasks.model.states import Priority
from services.tasks.model.task import Submission
from services.tasks.model.work import Queue
from services.tasks.operations.bundles import Bundles
from services.tasks.operations.figures import Figures
from services.tasks.ports import PointerStore, PublishBundles, WorkQueues

log = get_logger(__name__)

_FIRST_SIZE = 64
_LEAST_SIZE = 32
_MOST_SIZE = 2048
_LOOK_EVERY_SECONDS = 0.02
_POLL_SECONDS = 0.25
_MOST_PAUSE_SECONDS = 1.0
_RECALL_AFTER_SECONDS = 2.0
_STILL_AFTER_SECONDS = 2.0
_MOST_AT_ONCE = 1000
# So many may wait for room on the short way: more than a fast queue moves in the time that they are left there.
MOST_AHEAD = 8192

# A queue: its group and class.
Place: TypeAlias = tuple[str, Priority]
GoOn: TypeAlias = Callable[[Place], None]


@dataclass(slots=True)
class Window:
    """How many pointers one queue may hold: twice as many when it was found empty, fewer when they lie about.

    Attributes:
        credit: how many may be published before the queue is looked at again.
        after_owner: whose turn was the last, when there was more than could be taken.
        waits: something may wait in the table for its turn.
        unseen: others may have put something there since it was last asked for this queue.
    """

    size: int = _FIRST_SIZE
    credit: int = _FIRST_SIZE
    looked_at: float = float("-inf")
    after_owner: str = ""
    waits: bool = True
    unseen: bool = True

    @property
    def is_low(self) -> bool:
        """The queue may have moved on since it was filled."""
        return self.credit <= self.size // 2

    def wants_look(self, now: float) -> bool:
        """Whether to look at the queue now."""
        return self.is_low and now - self.looked_at >= _LOOK_EVERY_SECONDS

    def lets_pass(self, waiting: int) -> bool:
        """Whether one more may take the short way, on which so many wait. False: it waits in the table, and all that
        come behind it with it.
        """
        self.waits = self.waits or waiting >= MOST_AHEAD
        return not self.waits

    def reserve(self, wanted: int) -> int:
        """Room for so many that are published now, or for as many as there is."""
        count = max(0, min(wanted, self.credit))
        self.credit -= count
        return count

    def look(self, ready: int, now: float) -> None:
        """The queue holds so many."""
        if ready == 0:
            self.size = min(self.size * 2, _MOST_SIZE) if self.credit <= 0 else self.size
        elif ready > self.size * 3 // 4:
            self.size = max(self.size * 3 // 4, _LEAST_SIZE)
        self.credit = self.size - ready
        self.looked_at = now

    def take(self, owners: list[str], asked: int) -> None:
        """So many of what was asked for were published, for these owners in this order."""
        self.unseen = False
        # Those before the owner that it began with may have something too.
        self.waits = len(owners) >= asked or self.after_owner != ""
        self.credit -= len(owners)
        # Where one owner is alone there is nobody whose turn is next.
        self.after_owner = owners[-1] if len(owners) >= asked and len(set(owners)) > 1 else ""


class Feeder:
    """Runs in every process; one of them feeds at a time.

    Attributes:
        go_on: publishes what waits on the short way for a queue that may have room.
    """

    def __init__(
        self, store: PointerStore, queues: WorkQueues, figures: Figures, publish: PublishBundles, *, clock: Clock
    ) -> None:
        self._store = store
        self._queues = queues
        self._figures = figures
        self.bundles = Bundles()
        self._publish = partial(self.bundles.publish, publish=publish)
        self._clock = clock
        self._awake = asyncio.Event()
        # Something that was committed here is in the table.
        self._stirred = True
        self._fed_at = float("-inf")
        self._moved_at = float("-inf")
        self._recalled_at = float("-inf")
        self._windows: dict[Place, Window] = {}
        self.go_on: GoOn = lambda _: None

    def wake(self) -> None:
        """Something was committed by this process: publish it now and not at the next look."""
        self._stirred = True
        self._awake.set()

    def lets_pass(self, submission: Submission, waiting: int) -> bool:
        """Whether the pointer of a submission may take the short way, on which so many wait for its queue."""
        window = self._windows.get((submission.group, submission.priority))
        return window is not None and self.is_simple(submission) and window.lets_pass(waiting)

    def is_simple(self, submission: Submission) -> bool:
        """Whether it waits for nothing but a worker, so that its pointer may take the short way at all."""
        kind = self._figures.known_kind(submission.kind)
        return kind is not None and not (kind.max_running or submission.run_at or submission.run_after)

    def reserve(self, place: Place, wanted: int) -> int:
        """Room in a queue for so many that are published now, or for as many as there is."""
        window = self._windows[place]
        room = window.reserve(wanted)
        # Without room too: what waits here is looked after as while its queue moves. With a long rest, from which this
        # wakes the feeder that asks, it would never rest.
        self._moved_at = self._clock.monotonic()
        if window.is_low:
            self._awake.set()
        return room

    def hold(self, group: str, priority: Priority) -> None:
        """Something of a queue goes to the table: what comes behind it does too."""
        self._windows[group, priority].waits = True

    async def run(self) -> None:
        """Feeds for ever. While the broker or the database is away it waits and loses nothing."""
        failures = 0
        while True:
            self._awake.clear()
            try:
                pause = await self.feed()
            except Unavailable as error:
                if failures == 0:
                    log.warning("Pointers wait", error=str(error))
                failures += 1
                self._stirred = True
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                continue
            failures = 0
            if pause:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await (self._awake.wait() if pause >= _POLL_SECONDS else asyncio.sleep(pause))

    async def feed(self) -> float:
        """One round. Answers how long to rest, unless something is committed meanwhile. Raises Unavailable."""
        some_wait = await self._store.grant_places() if self._figures.any_bounds else False
        await self._look()
        await self._recall()
        now = self._clock.monotonic()
        # What waits in the table came behind what waits on the short way, from when on everything goes there. Where
        # nobody is known to wait in it the table comes first: others may have put something there.
        for place in [place for place, window in self._windows.items() if window.waits]:
            self.go_on(place)
        if self._stirred or some_wait or now - self._fed_at >= _POLL_SECONDS:
            for window in self._windows.values():
                window.unseen = True
        wanted = self._wanted()
        # Nothing is wanted where all of it takes the short way, or has no room.
        alone = not wanted or await self._feed(wanted, now)
        for place in self._windows:
            self.go_on(place)
        if not alone:
            return _LOOK_EVERY_SECONDS
        # Also when nothing was taken: then the turn begins with the first owner again.
        if wanted and any(window.waits and window.credit > 0 for window in self._windows.values()):
            return 0.0
        return _LOOK_EVERY_SECONDS if wanted and some_wait else self._rest(now)

    async def _feed(self, wanted: list[Queue], now: float) -> bool:
        """False: another process is at it."""
        self._stirred = False
        taken = await self._store.feed(wanted, self._publish)
        if taken is None:
            # Another process is at it; it may have begun before what we were woken for was committed.
            self._stirred = True
            return False
        self._fed_at = now
        self._moved_at = now if taken else self._moved_at
        owners: defaultdict[Place, list[str]] = defaultdict(list)
        for one in taken:
            owners[one.group, one.priority].append(one.owner_id)
        for queue in wanted:
            self._windows[queue.group, queue.priority].take(owners[queue.group, queue.priority], queue.most)
        return True

    def _rest(self, now: float) -> float:
        """Short while queues move or something waits for room, so that room in them is noticed."""
        moves = now - self._moved_at < _STILL_AFTER_SECONDS
        return _LOOK_EVERY_SECONDS if moves and any(w.is_low for w in self._windows.values()) else _POLL_SECONDS

    async def _recall(self) -> None:
        """Takes over from processes that died with pointers on the short way."""
        now = self._clock.monotonic()
        if now - self._recalled_at >= _RECALL_AFTER_SECONDS / 2:
            self._recalled_at = now
            if await self._store.recall_direct(_RECALL_AFTER_SECONDS):
                self._stirred = True

    async def _look(self) -> None:
        for group in self._figures.groups:
            for priority in Priority:
                window = self._windows.setdefault((group, priority), Window())
                now = self._clock.monotonic()
                if window.wants_look(now):
                    ready = await self._queues.count_ready(group, priority)
                    window.look(self.bundles.measure(group, priority, ready, now), now)

    def _wanted(self) -> list[Queue]:
        return [
            Queue(
                group=group,
                priority=priority,
                most=min(window.credit, _MOST_AT_ONCE),
                after_owner=window.after_owner,
            )
            for (group, priority), window in self._windows.items()
            if window.credit > 0 and (window.unseen or window.waits)
        ]
