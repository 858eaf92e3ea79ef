"""Slots that workers offer to this process: what is accepted while nothing waits begins in one of them at its commit.

An offer is a stream to one session. Its worker says how many tasks may come on it in all, and how many have come; what
was begun for it goes out in the order of the commits. It decides who has room, never whether a session lives: that is
the commit's to say.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType

from chassis.clock import Clock
from chassis.errors import Invalid, MeshError, Unavailable
from services.tasks.model.task import Accepted, Submission
from services.tasks.model.work import Claimed, Pointer
from services.tasks.operations.desk import check_session, lost
from services.tasks.ports import WorkStore

# A worker that says nothing for so long of what was sent to it may hang: what comes meanwhile goes by a pointer.
UNHEARD_SECONDS = 0.1
# Of one session at a time: what it holds when its host vanishes waits for the end of its lease.
MOST_ROOM = 1000
GIVE_BACK_EVERY_SECONDS = 1.0
_MOST_AT_ONCE = 500
# While so much is still to be given back nothing more is begun: so that does not grow, however long it takes.
_MOST_LEFT = 1000
# Of payloads in one message, if it has more than one task: clients of gRPC take 4 MiB unless they are told otherwise.
_MESSAGE_BYTES = 1024 * 1024
# So long a stream may go on sending when this process goes away.
_CLOSES_WITHIN_SECONDS = 1.0

HandBack = Callable[[str, Sequence[Pointer]], Awaitable[None]]


class Offer:
    """One stream. Everything is counted in tasks, from its beginning.

    Attributes:
        session_id: the session that holds what is begun here.
        kinds: what its worker can do.
        over: nobody reads it any more.
        reader: reads it.
    """

    def __init__(
        self,
        session_id: str,
        kinds: Collection[str],
        clock: Clock,
        gained: Callable[["Offer"], None] = lambda _: None,
    ) -> None:
        self.session_id = session_id
        self.kinds = frozenset(kinds)
        self._gained = gained
        self.over = False
        self.reader = asyncio.current_task()
        self._clock = clock
        # What the worker said last, and what holds: no less than what was taken by then.
        self._wanted = 0
        self._most = 0
        self._taken = 0
        self._promised = 0
        self._sent = 0
        self._received = 0
        self._heard = 0
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

    @property
    def free(self) -> int:
        """How many of them nobody was promised."""
        return self.room - self._promised

    @property
    def open(self) -> int:
        """Slots that are free, or are filled with what has not come yet."""
        return self._most - self._received

    def hear(self, most: int, received: int) -> None:
        """The worker's word. Raises Invalid for numbers that cannot be."""
        if not self._received <= received <= self._sent:
            raise Invalid(f"received: Between {self._received} and {self._sent}", details={"field": "received"})
        if received > self._received:
            self._received, self._unheard_since = received, self._clock.monotonic()
        self._heard += 1
        self._wanted = min(most, received + MOST_ROOM)
        self._settle()
        self._gained(self)

    def promise(self) -> None:
        """Keeps a slot from others that come, for what will be written soon. It is certain only when taken."""
        self._promised += 1

    def forgo(self) -> None:
        """Ends a promise."""
        self._promised -= 1

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

    async def read(self) -> AsyncIterator[tuple[Sequence[Claimed], int, int]]:
        """What is sent, each time with how many may come in all, and after how many words of the worker.

        Raises what the stream is ended with.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._why is not None:
                raise self._why
            if self._waiting or self._owes_a_word:
                tasks = self._next()
                if self._received == self._sent:
                    self._unheard_since = self._clock.monotonic()
                self._sent += len(tasks)
                self._owes_a_word = False
                yield tasks, self._most, self._heard
            if self._ending and self._taken == self._sent:
                return

    def _next(self) -> list[Claimed]:
        """As many as make one message."""
        size = 0
        for count, claimed in enumerate(self._waiting):
            size += len(claimed.payload)
            if count and size > _MESSAGE_BYTES:
                self._changed.set()
                break
        else:
            count = len(self._waiting)
        tasks, self._waiting = self._waiting[:count], self._waiting[count:]
        return tasks

    def _settle(self) -> None:
        most = max(self._wanted, self._taken)
        # The worker keeps slots free for this stream until it hears that it need not.
        self._owes_a_word = self._owes_a_word or most < self._most
        self._most = most
        if self._owes_a_word or self._ending:
            self._changed.set()


class Offers:
    """The open offers of this process. `give_back` has to be called again and again.

    Attributes:
        gained: told of an offer that may have room again.

    Args:
        hand_back: queues attempts of a session again, those that it holds.
        doubt_seconds: so long after its answer was lost a commit may still come about.
    """

    def __init__(self, store: WorkStore, hand_back: HandBack, clock: Clock, *, doubt_seconds: float) -> None:
        self._store = store
        self._hand_back = hand_back
        self._clock = clock
        self._doubt_seconds = doubt_seconds
        self._by_kind: defaultdict[str, list[Offer]] = defaultdict(list)
        # Those that may have slots to promise; whose turn is next first.
        self._free: defaultdict[str, dict[Offer, None]] = defaultdict(dict)
        self._open: set[Offer] = set()
        self._turn = 0
        # What sessions hold, or may, and were not sent; each with when that is certain.
        self._left: defaultdict[str, dict[Pointer, float]] = defaultdict(dict)
        # The last commit was answered. While none is, each that would begin something might leave it in doubt.
        self._answered = True
        self._closing = False
        self._none_open = asyncio.Event()
        self._none_open.set()
        self.awake = asyncio.Event()
        self.gained: Callable[[Offer], None] = lambda _: None

    @asynccontextmanager
    async def open(self, session_id: str) -> AsyncIterator[Offer]:
        """An offer for as long as its stream is read; an older one of the session ends.

        Raises NotFound (``SESSION_LOST``).
        """
        if self._closing:
            raise Unavailable("The service is going away")
        if (kinds := await self._store.read_session_kinds(check_session(session_id))) is None:
            raise lost()
        offer = Offer(session_id, kinds, self._clock, self._has_room)
        for kind in offer.kinds:
            self._by_kind[kind].append(offer)
        for older in self._open:
            if older.session_id == session_id:
                older.end()
        self._open.add(offer)
        self._none_open.clear()
        if self._closing:
            offer.end()
        try:
            yield offer
        finally:
            self._open.discard(offer)
            if not self._open:
                self._none_open.set()
            for kind in offer.kinds:
                self._by_kind[kind].remove(offer)
                self._free[kind].pop(offer, None)
            self._give_up(offer, [Pointer(one.task_id, one.attempt) for one in offer.leave()])

    def is_offered(self, kind: str) -> bool:
        """Whether anybody who can do this kind has an open offer, with room or without."""
        return bool(self._by_kind.get(kind))

    def promise(self, kind: str) -> Offer | None:
        """Keeps a slot for a task of this kind, of the sessions' workers in turn; None: nobody has one to promise."""
        free = self._free.get(kind)
        while free and self._may_begin():
            offer = next(iter(free))
            del free[offer]
            if offer.free > 0:
                offer.promise()
                free[offer] = None
                return offer
        return None

    def forgo(self, offer: Offer) -> None:
        """Ends a promise: its slot is free for others."""
        offer.forgo()
        self._has_room(offer)

    def reserve(
        self, submissions: Sequence[Submission], promised: Mapping[str, Offer] = MappingProxyType({})
    ) -> dict[str, Offer]:
        """Takes a slot for each of these that finds one: what was promised to them, which ends, as far as that holds;
        then the urgent ones first, the workers in turn. What others were promised, who come later, binds nobody.
        """
        for offer in promised.values():
            offer.forgo()
        taken: dict[str, Offer] = {}
        if self._may_begin():
            for one in submissions:
                if (kept := promised.get(one.task_id)) is not None and kept.room > 0:
                    kept.take()
                    taken[one.task_id] = kept
            self._take_turns([one for one in submissions if one.task_id not in taken], taken)
        for offer in {*promised.values()}:
            self._note(offer)
        return taken

    def _may_begin(self) -> bool:
        return self._answered and sum(map(len, self._left.values())) < _MOST_LEFT

    def _take_turns(self, submissions: Sequence[Submission], taken: dict[str, Offer]) -> None:
        roomy: dict[str, list[Offer]] = {}
        for one in sorted(submissions, key=lambda submission: -submission.priority):
            if (offers := roomy.get(one.kind)) is None:
                offers = roomy[one.kind] = [offer for offer in self._by_kind.get(one.kind, ()) if offer.room > 0]
            self._turn += 1
            while offers:
                place = self._turn % len(offers)
                if (offer := offers[place]).room > 0:
                    offer.take()
                    taken[one.task_id] = offer
                    break
                # Filled by now.
                offers[place] = offers[-1]
                offers.pop()

    def _note(self, offer: Offer) -> None:
        if offer.free > 0:
            for kind in offer.kinds:
                self._free[kind].setdefault(offer)

    def _has_room(self, offer: Offer) -> None:
        if offer.free > 0:
            self._note(offer)
            self.gained(offer)

    def settle(
        self,
        taken: Mapping[str, Offer],
        submissions: Sequence[Submission],
        answers: Sequence[Accepted | MeshError],
    ) -> None:
        """Sends what was begun in the slots that were taken, and gives back the others. Of every commit, also of those
        without slots.
        """
        self._answered = True
        freed: set[Offer] = set()
        for submission, answer in zip(submissions, answers, strict=True):
            if (offer := taken.get(submission.task_id)) is None:
                continue
            if isinstance(answer, MeshError) or not answer.held_by:
                if not isinstance(answer, MeshError) and answer.pointer_seq:
                    # It could have begun, but its session is over or drains.
                    offer.end(lost())
                offer.release()
                freed.add(offer)
            elif offer.over:
                self._give_up(offer, [Pointer(submission.task_id, 1)])
            else:
                offer.send(_claimed(submission))
        for offer in freed:
            self._has_room(offer)

    def release(self, taken: Mapping[str, Offer], *, in_doubt: bool) -> None:
        """Nothing was written, or nobody knows (`in_doubt`): then whatever was begun all the same is queued again, and
        nothing is begun until another commit is answered.
        """
        if in_doubt:
            self._answered = False
            for task_id, offer in taken.items():
                self._give_up(offer, [Pointer(task_id, 1)], self._doubt_seconds)
        for offer in taken.values():
            offer.release()
        for offer in {*taken.values()}:
            self._has_room(offer)

    async def give_back(self) -> bool:
        """Queues again what was begun and could not be sent; what is in doubt until it is certain."""
        for session_id in tuple(self._left):
            left = self._left[session_id]
            known = tuple(left)
            for begin in range(0, len(known), _MOST_AT_ONCE):
                pointers = known[begin : begin + _MOST_AT_ONCE]
                now = self._clock.monotonic()
                await self._hand_back(session_id, pointers)
                for pointer in pointers:
                    if left[pointer] <= now:
                        del left[pointer]
            if not left:
                del self._left[session_id]
        return False

    async def close(self) -> None:
        """Ends all streams, after what is being begun for them; those that nobody reads, a second later."""
        self._closing = True
        for offer in self._open:
            offer.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSES_WITHIN_SECONDS):
                await self._none_open.wait()
        for offer in self._open:
            if offer.reader is not None:
                offer.reader.cancel()

    def _give_up(self, offer: Offer, left: Sequence[Pointer], doubt_seconds: float = 0.0) -> None:
        if left:
            self._left[offer.session_id] |= dict.fromkeys(left, self._clock.monotonic() + doubt_seconds)
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
