"""What a worker and the tasks service have to say to each other, whoever carries the frames.

Every outcome is acknowledged after its commit, and every attempt that the worker loses is named to it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.clock import Clock
from chassis.messaging.connection import Broker
from chassis.messaging.topology import QueueType
from services.gateway import views
from services.gateway.workers import frames
from services.gateway.workers.frames import Accept, Cancelled, Fail, Plain, Progress, ProtocolError, Reject, Result
from services.gateway.workers.holdings import Holdings, Key
from services.gateway.workers.outbox import Outbox
from services.gateway.workers.outcomes import Outcomes
from services.gateway.workers.pointers import Pointers
from services.gateway.workers.session import Session
from worker.claims import Claims, Owner
from worker.lease import Holder

ACCEPT_SECONDS = 10.0
_MOST_UNACCEPTED = 3
_LOOK_SECONDS = 0.2
_STALL_SECONDS = 2.0
# A task that was rejected waits a moment for another worker; this one would otherwise get it back at once, and again.
_REJECTED_SECONDS = 1.0
# When it is not watched any more the service gives a session three quarters of a second.
_LINGER_SECONDS = 1.0
_NO_ANSWER = 4408
# Longer than a socket may look alive while its worker speaks to another gateway, and is given tasks there.
_ORPHAN_SECONDS = 15.0


class Done(Exception):
    """The worker wanted to end, and nothing is left to do."""


class Conversation:
    """One worker's."""

    def __init__(
        self,
        workers: "tasks_pb2_grpc.WorkerServiceAsyncStub",
        tasks: "tasks_pb2_grpc.TaskServiceAsyncStub",
        clock: Clock,
        outbox: Outbox,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._holdings = Holdings()
        self._draining = False
        self._bare = False
        self._slots = 0
        self._known = asyncio.Event()
        self._unaccepted = 0
        self._rejected: dict[Key, float] = {}
        # Held by the service's account and unknown here, and since when: a claim whose answer never arrived.
        self._orphans: dict[Key, float] = {}
        holder = Holder(holds=lambda: self._holdings.keys, cancelled=self._cancelled, beaten=self._beaten)
        self.session = Session(workers, holder)
        owner = Owner(
            session=self._claiming,
            free=self._free,
            # Nothing to note: what was stored is remembered for long.
            asking=lambda: nullcontext(set()),
            start=self._start,
            lost=self.session.suspect,
        )
        self._claims = Claims(workers, clock, owner)
        self._outcomes = Outcomes(tasks, self.session, self._holdings, outbox, clock, changed=self._claims.wake)

    def remember(self, past: Mapping[Key, bool]) -> None:
        """What the worker held over a connection before this one, so that it hears an answer that was lost."""
        self._holdings.remember(past)

    @property
    def past(self) -> Mapping[Key, bool]:
        """Attempts that the worker held: whether their outcome is stored."""
        return self._holdings.past

    def pointers(self, broker: Broker, queue_type: QueueType) -> Pointers:
        """Where its work comes from."""
        return Pointers(broker, queue_type, self._claims, lambda: self._claiming() is not None and self._free() > 0)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """At the end what was reported already is still committed, within seconds."""
        async with self._outcomes.open():
            yield

    async def run(self, group: asyncio.TaskGroup, announcement: tasks_pb2.OpenSessionRequest, *, bare: bool) -> None:
        """Keeps a session for ever, a new one where one was lost. Raises Done after a drain."""
        self._bare, self._slots = bare, announcement.slots
        for work in (self._claims.run(), self._look_after(), self._outcomes.tell_progress()):
            group.create_task(work)
        while True:
            opened = await self.session.open(announcement)
            announcement.resume_session_id = ""
            held = await self.session.held() if opened.resumed else set()
            if held is not None:
                self._say_registered(announcement, opened, held)
                self._known.set()
                self.session.begin(opened.heartbeat_seconds)
                self._claims.wake()
                await self.session.kept()
            self._outcomes.lose(self._holdings.keys)

    async def hear(self, said: frames.Said) -> None:
        """What the worker says. Raises ProtocolError."""
        # What it held when it registered is known only then, and its work may have ended meanwhile.
        await self._known.wait()
        match said:
            case Result() | Fail() | Cancelled():
                await self._outcomes.end(said)
                self._unaccepted = 0
            case Progress():
                self._accept((said.task_id, said.attempt))
                self._outcomes.progress(said)
            case Accept():
                self._accept((said.task_id, said.attempt))
            case Reject():
                self._reject((said.task_id, said.attempt))
            case Plain(type="drain"):
                self._draining = True
                await self.session.close(drain=True)

    async def retire(self, grace_seconds: float) -> None:
        """No new work, a while for what is under way, and the rest back to its queue."""
        self._draining = True
        self._outbox.put(frames.encode("drain", reason="The gateway is going away", seconds=grace_seconds))
        await self.session.close(drain=True)
        until = self._clock.monotonic() + grace_seconds
        while len(self._holdings) and self._clock.monotonic() < until:  # noqa: ASYNC110 - until one of two things
            await asyncio.sleep(_LOOK_SECONDS)
        await self._revoke(self._holdings.keys, "GOING_AWAY")

    async def part(self, *, lost: bool, until: "asyncio.Future[Any]") -> None:
        """The end of the session: resumable for two seconds when the connection was lost, else at once.

        Args:
            until: another connection goes on with the session, and nothing is left to be done for it.
        """
        if lost:
            await self.session.let_go(linger_seconds=_LINGER_SECONDS, until=until)
            return
        await self.session.hand_back(self._holdings.idle_keys)
        await self._outcomes.wait_settled()
        await self.session.let_go(linger_seconds=0, until=until)
        await self.session.close()

    def _claiming(self) -> str | None:
        return None if self._draining else self.session.id

    def _free(self) -> int:
        return self._slots - len(self._holdings) if self._outbox.is_roomy else 0

    def _start(self, session_id: str, claimed: list[tasks_pb2.Claimed], _ended: set[Key]) -> None:
        if session_id != self.session.id:
            return
        for one in claimed:
            key = one.task_id, one.attempt
            # A repeated pointer brings back what is held already.
            if self._holdings.find(key) is None and self._holdings.was_stored(key) is None:
                accept_by = None if self._bare else self._clock.monotonic() + ACCEPT_SECONDS
                self._holdings.take(key, accept_by)
                self._outbox.put(_assign(one))

    def _cancelled(self, key: Key) -> None:
        holding = self._holdings.find(key)
        if holding is not None and not holding.cancel_told:
            holding.cancel_told = True
            self._outbox.put(frames.encode("cancel", task_id=key[0], attempt=key[1]))

    async def _beaten(self, before: set[Key], held: set[Key]) -> None:
        """Tells what is fenced; gives back what was claimed without our knowledge."""
        # What is being settled hears of it in the answer to its outcome.
        self._outcomes.lose(before & self._holdings.idle_keys - held)
        unknown = set() if self._claims.in_flight else held - self._holdings.keys
        now = self._clock.monotonic()
        self._orphans = {key: self._orphans.get(key, now) for key in unknown if self._holdings.was_stored(key) is None}
        lasting = {key for key, since in self._orphans.items() if now - since >= _ORPHAN_SECONDS}
        await self.session.hand_back(lasting)

    def _accept(self, key: Key) -> None:
        if self._outcomes.check_held(key):
            self._holdings.accept(key)
            self._unaccepted = 0

    def _reject(self, key: Key) -> None:
        if self._outcomes.check_held(key):
            self._holdings.accept(key)
            self._rejected[key] = self._clock.monotonic() + _REJECTED_SECONDS

    async def _look_after(self) -> None:
        """For ever: what was not accepted or was rejected goes to others, and a drained worker may go."""
        before = self._clock.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._clock.monotonic()
            if now - before > _STALL_SECONDS:
                # This process stood still, and what its workers said meanwhile is not read yet.
                self._holdings.postpone(now - before)
            before = now
            await self._take_back(now)
            if self._draining and not len(self._holdings) and not self._claims.in_flight:
                self._outbox.put(frames.encode("drained"))
                raise Done

    async def _take_back(self, now: float) -> None:
        rejected = {key for key, at in self._rejected.items() if at <= now}
        for key in rejected:
            del self._rejected[key]
        waiting = {key for key in rejected if self._holdings.find(key) is not None}
        for key in waiting:
            self._holdings.release(key, stored=False)
        await self.session.hand_back(waiting)
        late = self._holdings.unaccepted(now)
        await self._revoke(late, "NOT_ACCEPTED")
        self._unaccepted += len(late)
        if self._unaccepted >= _MOST_UNACCEPTED:
            raise ProtocolError("NOT_ACCEPTING", "Assigned tasks are neither accepted nor rejected", close=_NO_ANSWER)
        if rejected or late:
            self._claims.wake()

    async def _revoke(self, keys: set[Key], reason: str) -> None:
        for task_id, attempt in sorted(keys):
            self._holdings.release((task_id, attempt), stored=False)
            self._outbox.put(frames.encode("revoke", task_id=task_id, attempt=attempt, reason=reason))
        await self.session.hand_back(keys)

    def _say_registered(
        self, announcement: tasks_pb2.OpenSessionRequest, opened: tasks_pb2.OpenSessionResponse, held: set[Key]
    ) -> None:
        for key in held:
            self._holdings.take(key, None)
        if self._bare:
            return
        self._outbox.put(
            frames.encode(
                "registered",
                worker_id=announcement.worker_name,
                session_id=opened.session_id,
                resumed=opened.resumed,
                held=frames.attempts(sorted(held)),
                kinds=[spec.kind for spec in announcement.kinds],
                slots=announcement.slots,
                lease_seconds=opened.lease_seconds,
                accept_seconds=ACCEPT_SECONDS,
            )
        )


def _assign(one: tasks_pb2.Claimed) -> str:
    return frames.encode(
        "assign",
        task_id=one.task_id,
        attempt=one.attempt,
        task_type=one.kind,
        data=views.json_value(one.payload),
        timeout_seconds=one.timeout_seconds,
        max_attempts=one.max_attempts,
    )
