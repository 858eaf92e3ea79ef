"""Streams to workers: what is to be stopped is pushed at once, and a stream that breaks shortens its session's lease.

A process that goes away by itself ends its streams with a word, and shortens nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chassis.errors import NotFound, Unavailable
from services.tasks.model.work import Pointer
from services.tasks.operations.desk import LEASE_SECONDS
from services.tasks.ports import WorkStore

# What a worker that lives has to open its stream anew.
BROKEN_LEASE_SECONDS = 0.75
# Another process may have been asked to stop a task of ours.
STOPS_EVERY_SECONDS = 0.1


@dataclass(slots=True, eq=False)
class Watch:
    """One stream: the stops that wait to be pushed, and those that were."""

    session_id: str
    watcher: str
    waiting: list[Pointer] = field(default_factory=list)
    said: set[Pointer] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Watches:
    """The streams of this process. `push` has to be called again and again; see `loops`."""

    def __init__(self, store: WorkStore, new_watcher: Callable[[], str]) -> None:
        self._store = store
        self._new_watcher = new_watcher
        self._open: set[Watch] = set()
        self._broken: list[Watch] = []
        self._closing = False
        self.awake = asyncio.Event()

    @asynccontextmanager
    async def open(self, session_id: str) -> AsyncIterator[AsyncIterator[Sequence[Pointer]]]:
        """What is to be stopped, for as long as it is open; first an empty answer. Ends when this process goes away.

        Raises NotFound (``SESSION_LOST``).
        """
        if self._closing:
            raise Unavailable("The service is going away")
        watch = Watch(session_id, self._new_watcher())
        if await self._store.beat(session_id, LEASE_SECONDS, watch.watcher) is None:
            raise NotFound("The session is over", code="SESSION_LOST")
        self._open.add(watch)
        try:
            yield self._stops(watch)
        finally:
            self._open.discard(watch)
            if not self._closing:
                # Not here: whoever closes a broken stream does not wait for a database.
                self._broken.append(watch)
                self.awake.set()

    async def push(self) -> bool:
        """Shortens the leases of broken streams, and hands out what is to be stopped."""
        while self._broken:
            watch = self._broken[0]
            await self._store.shorten(watch.session_id, BROKEN_LEASE_SECONDS, watch.watcher)
            self._broken.remove(watch)
        watches = {watch.session_id: watch for watch in self._open}
        wanted: dict[str, set[Pointer]] = {session_id: set() for session_id in watches}
        for stop in await self._store.read_stops(sorted(watches)) if watches else ():
            wanted[stop.session_id].add(stop.pointer)
        for session_id, watch in watches.items():
            if fresh := wanted[session_id] - watch.said:
                watch.waiting += sorted(fresh, key=lambda pointer: pointer.task_id)
                watch.changed.set()
            # What has ended meanwhile need not be remembered.
            watch.said = wanted[session_id]
        return False

    async def close(self) -> None:
        """Ends all streams with a word, so that the workers open theirs elsewhere."""
        self._closing = True
        for watch in self._open:
            watch.changed.set()

    async def _stops(self, watch: Watch) -> AsyncIterator[Sequence[Pointer]]:
        yield ()
        while not self._closing:
            await watch.changed.wait()
            watch.changed.clear()
            if watch.waiting:
                waiting, watch.waiting = watch.waiting, []
                yield waiting
