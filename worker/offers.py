"""Slots that are offered to the tasks service: what it accepts while nothing waits begins in them, without a pointer.

What is offered is free for nothing else until the service has said that it will not fill it any more. It knows neither
pointers nor attempts: how many slots may be offered is its owner's word.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import MeshError
from chassis.logging import get_logger
from chassis.retry import backoff_seconds

log = get_logger(__name__)

# The service fills no more of one session at a time.
MOST_OFFERED = 1000
# Some stay for pointers, which else would have to wait until slots are taken back.
_SPARE_SHARE = 8
# A service that says nothing for so long hangs: not to the first word, not to one that takes slots back, and no end
# after the last one.
_ANSWERS_WITHIN_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 5.0
# Only what is missing twice is known to be missing.
_LOOK_AGAIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Offerer:
    """What the offers ask of the process they work for.

    Attributes:
        session: the session to offer for; None while no work may begin.
        spare: slots without work that neither a pointer nor a claim is waiting for; below 0: so many are missing.
        calm: no pointer waits. They come first: more are on their way where some wait.
        start: starts what came for a session.
        freed: slots that were offered are free for something else.
        missing: look for what is the session's and did not arrive.
    """

    session: Callable[[], str | None]
    spare: Callable[[], int]
    calm: Callable[[], bool]
    start: Callable[[str, list[tasks_pb2.Claimed]], None]
    freed: Callable[[], None]
    missing: Callable[[], None]


class _Stream:
    """One stream. Everything is counted in tasks, from its beginning.

    Attributes:
        answered: the service has said something.
        changed: set when there may be something to say.
    """

    def __init__(self, session_id: str, owner: Offerer, limit: asyncio.Timeout) -> None:
        self.session_id = session_id
        self.answered = False
        self.changed = asyncio.Event()
        self._owner = owner
        self._limit = limit
        # How many may come: what was said last; all that holds by now; and what was said and not heard yet, in order.
        self._said = 0
        self._most = 0
        self._unheard: deque[int] = deque()
        self._heard = 0
        self._received = 0
        self._acknowledged = 0
        self._over = False
        self._expect()

    @property
    def open(self) -> int:
        """Slots that may be filled at any moment."""
        return self._most - self._received

    async def say(self) -> AsyncIterator[tasks_pb2.OfferRequest]:
        """The worker's side, until its session is another."""
        self._said = self._most = _share(max(0, self._owner.spare())) if self._owner.calm() else 0
        self._unheard.append(self._said)
        yield tasks_pb2.OfferRequest(session_id=self.session_id, most=self._said)
        # The library may go on asking after the stream has ended.
        while not self._over and self._owner.session() == self.session_id:
            if self._decide():
                self._unheard.append(self._said)
                yield tasks_pb2.OfferRequest(most=self._said, received=self._received)
                continue
            await self.changed.wait()
            self.changed.clear()

    def take(self, response: tasks_pb2.OfferResponse) -> None:
        """The service's side."""
        self.answered = True
        self._received += len(response.claimed)
        while self._heard < response.heard and self._unheard:
            self._heard += 1
            self._unheard.popleft()
        before, self._most = self._most, max((response.most, *self._unheard))
        # What was being filled when it was taken back may have come instead.
        if self._most == max(self._said, self._received) and self._owner.session() == self.session_id:
            self._limit.reschedule(None)
        if response.claimed:
            self._owner.start(self.session_id, list(response.claimed))
        if self._most < before:
            self._owner.freed()
        self.changed.set()

    def look(self) -> None:
        """A slot is free, a pointer came, or the session is another."""
        if self._owner.session() != self.session_id:
            self._expect()
        self.changed.set()

    def end(self) -> None:
        """Nothing comes any more."""
        self._over = True
        self._most = self._received
        self.changed.set()

    def _decide(self) -> bool:
        """Sets what is to be said. False: there is nothing to say."""
        spare = max(0, self._owner.spare())
        news = self._received > self._acknowledged
        self._acknowledged = self._received
        said = self._said - self._received
        if spare < said:
            self._said = self._received + spare
            self._expect()
            return True
        # Few more are worth a message only where one is sent anyway.
        wanted = _share(spare)
        if wanted > said and (news or said <= wanted // 2) and self._owner.calm():
            self._said = self._received + wanted
            self._most = max(self._most, self._said)
            return True
        return news

    def _expect(self) -> None:
        """The stream is left unless the service says something soon."""
        if not self._over and self._limit.when() is None:
            self._limit.reschedule(asyncio.get_running_loop().time() + _ANSWERS_WITHIN_SECONDS)


class Offers:
    """One stream of offered slots after the other, for as long as the process has a session."""

    def __init__(self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", owner: Offerer) -> None:
        self._tasks = tasks
        self._owner = owner
        self._stream: _Stream | None = None
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._closed.set()
        # A stream broke, and what was on its way was not looked for since.
        self._missing = False

    @property
    def open(self) -> int:
        """Slots that may be filled at any moment. What comes for another session fills none."""
        stream = self._stream
        return 0 if stream is None or stream.session_id != self._owner.session() else stream.open

    def wake(self) -> None:
        """A slot is free, a pointer came, or a session came or went."""
        self._changed.set()
        if self._stream is not None:
            self._stream.look()

    async def wait_closed(self) -> None:
        """Waits until no stream is open."""
        await self._closed.wait()

    async def run(self) -> None:
        """Offers for ever."""
        failures = 0
        while True:
            if (session_id := self._owner.session()) is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            failures = 0 if await self._offer(session_id, again=failures > 0) else failures + 1
            await asyncio.sleep(backoff_seconds(failures, first=_FIRST_PAUSE_SECONDS, most=_MAX_PAUSE_SECONDS))

    async def _offer(self, session_id: str, *, again: bool) -> bool:
        """One stream, to its end. False: the service never answered."""
        self._closed.clear()
        stream: _Stream | None = None
        try:
            async with asyncio.timeout(None) as limit:
                stream = self._stream = _Stream(session_id, self._owner, limit)
                async for response in self._tasks.Offer(stream.say()):
                    if not stream.answered:
                        self._look_for_missing()
                    stream.take(response)
        except (MeshError, TimeoutError) as error:
            if not again:
                log.info("The stream of offered slots broke", session=session_id, error=repr(error))
            if stream is not None and stream.answered:
                self._missing = True
                self._owner.missing()
        finally:
            if stream is not None:
                stream.end()
            self._stream = None
            self._closed.set()
            self._owner.freed()
        return stream is not None and stream.answered

    def _look_for_missing(self) -> None:
        if self._missing:
            self._missing = False
            self._owner.missing()
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_SECONDS, self._owner.missing)


def _share(spare: int) -> int:
    return min(spare - spare // _SPARE_SHARE, MOST_OFFERED)
