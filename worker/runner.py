"""A process as a worker: its parts put together, its heartbeat's news applied, and a clean end.

It refuses to know what the work is.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.endless import endless
from chassis.errors import Unavailable
from chassis.lifecycle import Host
from chassis.logging import get_logger
from worker.attempts import Attempts, Key, Running, key_of
from worker.claims import Claims, Owner
from worker.feed import Feed
from worker.handler import Kind
from worker.lease import Holder, hand_back
from worker.offers import Offerer, Offers
from worker.orphans import Orphans
from worker.progress import Progress
from worker.reporter import Reporter
from worker.session import Callbacks, Sessions

log = get_logger(__name__)

# Pointers that wait for a busy worker could be done by another one. Where slots come sooner it is not worth it.
_FULL_SECONDS = 3.0
# A delivery that nobody acknowledges for 30 minutes closes the channel (consumer_timeout), so pointers that cannot be
# claimed although there is a slot go back to their queue long before, too.
_STUCK_SECONDS = 30.0
_LOOK_SECONDS = 0.2
# So long after its return to the queues a worker waits for what is in them: of what comes first nobody knows whether
# something more urgent is behind it.
_RETURN_SECONDS = 0.1
# Of the time the process has for its end; the rest is for handing back and for the session.
_GRACE_SHARE = 0.7
_STOP_SHARE = 0.1
_FLUSH_SHARE = 0.1
_MOST_STOPPED = 1000


class Runner:
    """Runs tasks of the given kinds, at most `slots` at a time, from when it is opened until the process ends.

    Args:
        feed: where pointers come from.
        name: for people, as in "tasks-worker-1".
        kinds: handlers by kind; they become known to those who submit.

    It needs neither the tasks service nor RabbitMQ to start: it waits for them.
    """

    def __init__(
        self,
        host: Host,
        tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub",
        feed: Feed,
        *,
        name: str,
        kinds: Mapping[str, Kind],
        slots: int,
    ) -> None:
        self._host = host
        self._tasks = tasks
        self._feed = feed
        self._kinds = kinds
        self._group = asyncio.TaskGroup()
        self._attempts = Attempts(self._group, kinds, slots, self._ended)
        self._reporter = Reporter(tasks)
        holder = Holder(holds=lambda: self._attempts.keys, cancelled=self._stop, beaten=self._beaten)
        on = Callbacks(opened=lambda _: self._wake(), lost=self._session_lost)
        self._sessions = Sessions(tasks, _announcement(name, feed.group, kinds, slots), holder, on)
        self._offers = Offers(tasks, self._offerer())
        self._claims = Claims(tasks, host.clock, self._owner())
        self._orphans = Orphans()
        # For each claim on its way what has ended, or was to be acknowledged, since it was sent. Its answer may name
        # such an attempt, granted again to a repeated pointer, after the end has been acknowledged: to run it would be
        # twice.
        self._ended_since: dict[int, set[Key]] = {}
        # For the same claims, how often had been looked for orphans when they were sent.
        self._sent_at_look: dict[int, int] = {}
        # What came in offered slots when the lease may have been over; each has its slot.
        self._late: list[tasks_pb2.Claimed] = []
        # What was to be stopped before it arrived.
        self._stopped: dict[Key, None] = {}
        # It has left its queues, or is back since a moment: it begins nothing until it knows what waits in them.
        self._away = False
        self._woken = asyncio.Event()
        self._draining = asyncio.Event()
        # What it holds is given back from now on.
        self._closed = False

    @property
    def serving(self) -> bool:
        """It has a session and takes work."""
        return self._sessions.current is not None and not self._draining.is_set()

    @property
    def running(self) -> int:
        """Handlers that run now."""
        return len(self._attempts.keys)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Runner"]:
        """Works in the background of the process; on drain finishes what it can and hands back the rest."""
        self._host.spawn(f"worker {self._feed.group}", self._run())
        self._host.on_drain(f"worker {self._feed.group}", self.drain)
        self._host.health.add("worker session", self._ping)
        yield self

    async def _ping(self) -> None:
        if self._sessions.current is None:
            raise Unavailable("No worker session")

    async def drain(self) -> None:
        """No new work; what runs may finish within the grace, the rest is handed back and the session closed."""
        self._draining.set()
        self._wake()
        await self._sessions.drain()
        seconds = self._host.settings.drain_seconds
        # What was accepted for this process before arrives yet.
        await _within(seconds * _STOP_SHARE, self._offers.wait_closed())
        await _within(seconds * _GRACE_SHARE, self._attempts.wait_idle())
        self._closed = True
        left = self._attempts.keys
        self._attempts.drop(left)
        # Another worker starts what is handed back at once, so this one has to have stopped.
        await _within(seconds * _STOP_SHARE, self._attempts.wait_idle())
        await self._hand_back(left)
        await _within(seconds * _FLUSH_SHARE, self._reporter.wait_empty())
        await self._sessions.close()

    async def _run(self) -> None:
        async with self._group as group:
            group.create_task(self._sessions.run(), name="sessions")
            group.create_task(self._reporter.run(), name="outcomes")
            group.create_task(self._claims.run(), name="claims")
            group.create_task(self._offers.run(), name="offers")
            group.create_task(endless("pointers", self._consume), name="pointers")

    async def _consume(self) -> None:
        """Takes pointers in, and leaves the queues while none of them could be claimed for too long."""
        while not self._draining.is_set():
            try:
                async with self._feed.open(self._claims.take_in):
                    while not self._is_stuck() and not self._draining.is_set():
                        await _within(_RETURN_SECONDS if self._away else _LOOK_SECONDS, self._draining.wait())
                        self._come_back()
            finally:
                # Closing gave back what was not acknowledged; the copies here would only be claimed for nothing.
                self._claims.forget()
                self._away = True
            while not (self.serving and self._attempts.free > 0) and not self._draining.is_set():
                self._woken.clear()
                await self._woken.wait()
        # It takes nothing more in.
        await asyncio.Event().wait()

    def _is_stuck(self) -> bool:
        return self._claims.stuck_seconds > (_FULL_SECONDS if self._attempts.free <= 0 else _STUCK_SECONDS)

    def _come_back(self) -> None:
        if self._away:
            self._away = False
            self._wake()

    def _owner(self) -> Owner:
        return Owner(
            session=self._serving_session,
            free=self._free,
            asking=self._asking,
            start=self._start,
            came=self._offers.wake,
            lost=self._sessions.suspect,
        )

    def _offerer(self) -> Offerer:
        return Offerer(
            session=self._serving_session,
            spare=lambda: self._unused - self._claims.wanted,
            calm=lambda: not (self._away or self._claims.waiting),
            start=self._start_offered,
            freed=self._wake,
            missing=self._sessions.suspect,
        )

    @property
    def _unused(self) -> int:
        return self._attempts.free - len(self._late)

    def _free(self) -> int:
        return 0 if self._away else self._unused - self._offers.open

    def _serving_session(self) -> str | None:
        return self._sessions.current if self.serving else None

    def _wake(self) -> None:
        self._woken.set()
        self._claims.wake()
        self._offers.wake()

    @contextmanager
    def _asking(self) -> Iterator[set[Key]]:
        ended = self._reporter.keys
        self._ended_since[id(ended)] = ended
        self._sent_at_look[id(ended)] = self._orphans.looks
        try:
            yield ended
        finally:
            del self._ended_since[id(ended)], self._sent_at_look[id(ended)]
            self._offers.wake()

    def _start(self, session_id: str, claimed: list[tasks_pb2.Claimed], ended: set[Key]) -> None:
        if session_id != self._sessions.current or self._closed:
            # Everything that it held was stopped already, and is somebody else's by now.
            log.warning("Attempts came after the end of their session", session=session_id, attempts=len(claimed))
            return
        known = self._attempts.keys | self._reporter.keys | ended
        for one in claimed:
            # A repeated pointer brings back what is held already.
            if (key := key_of(one)) not in known and key not in self._orphans:
                progress = Progress(self._tasks, self._host.clock, session_id, one, self._fenced)
                self._attempts.start(Running(key=key, claimed=one, session_id=session_id, report=progress.report))
                if key in self._stopped:
                    self._attempts.cancel(key)

    def _start_offered(self, session_id: str, claimed: list[tasks_pb2.Claimed]) -> None:
        if self._sessions.is_held or session_id != self._sessions.current:
            self._start(session_id, claimed, set())
            return
        # This process stood still, or nobody answered for long: others may be at it. The next heartbeat tells.
        log.warning("Attempts came after the lease that is known", session=session_id, attempts=len(claimed))
        self._late += claimed
        self._sessions.suspect()

    def _stop(self, key: Key) -> None:
        """Its owner wants no more of it, whether it has arrived or not."""
        if not self._attempts.cancel(key):
            self._stopped[key] = None
            while len(self._stopped) > _MOST_STOPPED:
                del self._stopped[next(iter(self._stopped))]

    def _ended(self, running: Running, outcome: tasks_pb2.Outcome | None) -> None:
        for ended in self._ended_since.values():
            ended.add(running.key)
        if outcome is not None:
            self._reporter.put(running.session_id, outcome)
        self._wake()

    def _fenced(self, key: Key) -> None:
        log.warning("An attempt is not ours any more", task_id=key[0], attempt=key[1])
        self._attempts.drop([key])

    def _session_lost(self, session_id: str) -> None:
        log.warning("All work of a lost session is stopped", session=session_id, attempts=self.running)
        self._attempts.drop(self._attempts.keys)

    async def _beaten(self, before: set[Key], held: set[Key]) -> None:
        """Stops what is fenced; gives back what was claimed without our knowledge."""
        # Only what ran when the heartbeat left: a later claim is not in the answer yet.
        for key in (before & self._attempts.keys) - held:
            self._fenced(key)
        late, self._late = self._late, []
        if late and self._sessions.current is not None:
            self._start(self._sessions.current, [one for one in late if key_of(one) in held], set())
            self._wake()
        unknown = held - self._attempts.keys - self._reporter.keys
        if lasting := self._orphans.look(unknown, self._sent_at_look.values()):
            log.warning("Attempts that never arrived are handed back", attempts=len(lasting))
            await self._hand_back(lasting)

    async def _hand_back(self, keys: set[Key]) -> None:
        if keys and self._sessions.current is not None:
            await hand_back(self._tasks, self._sessions.current, keys)


async def _within(seconds: float, waiting: Awaitable[object]) -> None:
    """Waits that long at most; whether it was long enough shows in the state, not here."""
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return


def _announcement(name: str, group: str, kinds: Mapping[str, Kind], slots: int) -> tasks_pb2.OpenSessionRequest:
    specs = [
        tasks_pb2.KindSpec(
            kind=kind,
            group=group,
            default_max_attempts=spec.max_attempts,
            default_timeout_seconds=spec.timeout_seconds,
        )
        for kind, spec in kinds.items()
    ]
    return tasks_pb2.OpenSessionRequest(worker_name=name, host=socket.gethostname(), kinds=specs, slots=slots)
