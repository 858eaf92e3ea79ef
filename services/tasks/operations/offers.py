"""Slots that workers offer to this process: what is accepted while nothing waits begins in one of them at its commit.

An offer is a stream to one session. Its worker says how many tasks may come on it in all, and how many have come; what
was begun for it goes out in the order of the commits. It decides who has room, never whether a session lives: that is
the commit's to say.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from chassis.clock import Clock
from chassis.errors import Invalid, MeshError, NotFound, Unavailable
from services.tasks.model.task import Accepted, Submission
from services.tasks.model.work import Claimed, Pointer
from services.tasks.ports import WorkStore

# A worker that says nothing for so long of what was sent to it may hang: what comes meanwhile goes by a pointer.
UNHEARD_SECONDS = 0.1
# Of one session at a time: what it holds when its host vanishes waits for the end of its lease.
MOST_ROOM = 1000
GIVE_BACK_EVERY_SECONDS = 1.0
_MOST_AT_ONCE = 500

HandBack = Callable[[str, Sequence[Pointer]], Awaitable[None]]


class Offer:
    """One stream. Everything is counted in tasks, from its beginning.

    Attributes:
        session_id: the session that holds what is begun here.
        kinds: what its worker can do.
        over: nobody reads it any more.
    """

    def __init__(self, session_id: str, kinds: Collection[str], clock: Clock) -> None:
        self.session_id = session_id
        self.kinds = frozenset(kinds)
        self.over = False
        self._clock = clock
        # What the worker said last, and what holds: no less than what was taken by then.
        self._wanted = 0
        self._most = 0
        self._taken = 0
        self._sent = 0
        self._received = 0
        self._unheard_since = 0.0
        self._waiting: list[Claimed] = []
        # The first says that it is open.
        self._owes_a_word = True
        self._ending = False
        self._why: Exception | None = None
        self._changed = asyncio.Event()
        self._changed.set()

    @property
    def room(self) -> int:
        """How many slots may be taken now."""
        unheard = self._received < self._sent and self._clock.monotonic() - self._unheard_since > UNHEARD_SECONDS
        return 0 if unheard or self._ending or self.over else self._most - self._taken

    def hear(self, most: int, received: int) -> None:
        """The worker's word. Raises Invalid for numbers that cannot be."""
        if not self._received <= received <= self._sent:
            raise Invalid(f"received: Between {self._received} and {self._sent}", details={"field": "received"})
        if received > self._received:
            self._received, self._unheard_since = received, self._clock.monotonic()
        self._wanted = min(most, received + MOST_ROOM)
        self._settle()

    def take(self) -> None:
        """Takes a slot, for a task that is about to be written."""
        self._taken += 1

    def release(self) -> None:
        """Gives a slot back: nothing was begun in it."""
        self._taken -= 1
        self._settle()

    def send(self, claimed: Claimed) -> None:
        """Sends what was begun in a slot that was taken."""
        self._waiting.append(claimed)
        self._changed.set()

    def end(self, why: Exception | None = None) -> None:
        """Takes no more, and ends once everything that was taken is sent or given back; `why` ends it at once."""
        self._ending = True
        self._why = self._why or why
        self._changed.set()

    def leave(self) -> list[Claimed]:
        """Nobody reads it any more. Answers what was not sent."""
        self.over = True
        left, self._waiting = self._waiting, []
        return left

    async def read(self) -> AsyncIterator[tuple[Sequence[Claimed], int]]:
        """What is sent, each time with how many may come in all. Raises what the stream is ended with."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._why is not None:
                raise self._why
            if self._waiting or self._owes_a_word:
                tasks, self._waiting = self._waiting, []
                if self._received == self._sent:
                    self._unheard_since = self._clock.monotonic()
                self._sent += len(tasks)
                self._owes_a_word = False
                yield tasks, self._most
            if self._ending and self._taken == self._sent:
                return

    def _settle(self) -> None:
        most = max(self._wanted, self._taken)
        # The worker keeps slots free for this stream until it hears that it need not.
        self._owes_a_word = self._owes_a_word or most < self._most
        self._most = most
        if self._owes_a_word or self._ending:
            self._changed.set()


class Offers:
    """The open offers of this process. `give_back` has to be called again and again; see `loops`."""

    def __init__(self, store: WorkStore, hand_back: HandBack, clock: Clock) -> None:
        self._store = store
        self._hand_back = hand_back
        self._clock = clock
        self._by_kind: defaultdict[str, list[Offer]] = defaultdict(list)
        self._turn = 0
        self._undelivered: list[tuple[str, Pointer]] = []
        self._closing = False
        self.awake = asyncio.Event()

    @asynccontextmanager
    async def open(self, session_id: str) -> AsyncIterator[Offer]:
        """An offer for as long as its stream is read. Raises NotFound (``SESSION_LOST``)."""
        if self._closing:
            raise Unavailable("The service is going away")
        if (kinds := await self._store.read_session_kinds(session_id)) is None:
            raise _lost()
        offer = Offer(session_id, kinds, self._clock)
        for kind in offer.kinds:
            self._by_kind[kind].append(offer)
        if self._closing:
            offer.end()
        try:
            yield offer
        finally:
            for kind in offer.kinds:
                self._by_kind[kind].remove(offer)
            self._give_up(offer, offer.leave())

    def reserve(self, submissions: Sequence[Submission]) -> dict[str, Offer]:
        """Takes a slot for each of these that finds one, the urgent ones first; the sessions' workers in turn."""
        taken: dict[str, Offer] = {}
        rooms: dict[str, list[Offer]] = {}
        for one in sorted(submissions, key=lambda submission: -submission.priority):
            if (offers := rooms.get(one.kind)) is None:
                offers = rooms[one.kind] = list(self._by_kind.get(one.kind, ()))
            while offers:
                self._turn += 1
                offer = offers[self._turn % len(offers)]
                if offer.room > 0:
                    offer.take()
                    taken[one.task_id] = offer
                    break
                offers.remove(offer)
        return taken

    def settle(
        self,
        taken: Mapping[str, Offer],
        submissions: Sequence[Submission],
        answers: Sequence[Accepted | MeshError],
    ) -> None:
        """Sends what was begun in the slots that were taken, and gives back the others."""
        for submission, answer in zip(submissions, answers, strict=True):
            if (offer := taken.get(submission.task_id)) is None:
                continue
            if isinstance(answer, MeshError) or not answer.held_by:
                offer.release()
                if not isinstance(answer, MeshError) and answer.pointer_seq:
                    # It could have begun, but its session is over or drains.
                    offer.end(_lost())
                continue
            claimed = _claimed(submission)
            if offer.over:
                self._give_up(offer, [claimed])
            else:
                offer.send(claimed)

    def release(self, taken: Mapping[str, Offer], *, in_doubt: bool) -> None:
        """Nothing was written, or nobody knows (`in_doubt`): then whatever was begun all the same is queued again."""
        for task_id, offer in taken.items():
            offer.release()
            if in_doubt:
                self._give_up(offer, [Pointer(task_id=task_id, attempt=1)])

    async def give_back(self) -> bool:
        """Queues again what was begun for streams that ended before it could be sent."""
        while self._undelivered:
            session_id = self._undelivered[0][0]
            mine = [pointer for session, pointer in self._undelivered if session == session_id][:_MOST_AT_ONCE]
            await self._hand_back(session_id, mine)
            gone = {(session_id, pointer) for pointer in mine}
            self._undelivered = [one for one in self._undelivered if one not in gone]
        return False

    async def close(self) -> None:
        """Ends all streams, after what is being begun for them."""
        self._closing = True
        for offers in self._by_kind.values():
            for offer in offers:
                offer.end()

    def _give_up(self, offer: Offer, left: Sequence[Claimed | Pointer]) -> None:
        if left:
            pointers = (Pointer(task_id=one.task_id, attempt=one.attempt) for one in left)
            self._undelivered += [(offer.session_id, pointer) for pointer in pointers]
            self.awake.set()


def _claimed(submission: Submission) -> Claimed:
    return Claimed(
        task_id=submission.task_id,
        attempt=1,
        kind=submission.kind,
        payload=submission.payload,
        owner_id=submission.owner_id,
        timeout_seconds=submission.timeout_seconds,
        max_attempts=submission.max_attempts,
        traceparent=submission.traceparent,
    )


def _lost() -> NotFound:
    return NotFound("The session is over", code="SESSION_LOST")
