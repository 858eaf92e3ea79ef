"""Slots that are offered to the tasks service: what it accepts while nothing waits begins in them, without a pointer.

What is offered is free for nothing else until the service has said that it will not fill it any more. It knows neither
pointers nor attempts: how many slots may be offered is its owner's word.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import MeshError
from chassis.logging import get_logger
from chassis.retry import backoff_seconds

log = get_logger(__name__)

MOST_OFFERED = 128
# Half of them stay for pointers, which else would have to wait until slots are taken back.
_SHARE = 2
# Where pointers came so lately more are on their way, and they are first.
_QUIET_SECONDS = 0.005
_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offerer:
    """What the offers ask of the process they work for.

    Attributes:
        session: the session to offer for; None while no work may begin.
        spare: slots without work that neither a pointer nor a claim is waiting for; below 0: so many are missing.
        start: starts what came for a session.
        freed: slots that were offered are free for something else.
        broke: a stream broke; what was on its way on it is the session's and did not arrive.
    """

    session: Callable[[], str | None]
    spare: Callable[[], int]
    start: Callable[[str, list[tasks_pb2.Claimed]], None]
    freed: Callable[[], None]
    broke: Callable[[], None]


class _Stream:
    """One stream. Everything is counted in tasks, from its beginning.

    Attributes:
        open: slots that may be filled at any moment.
    """

    def __init__(self, session_id: str, owner: Offerer) -> None:
        self._session_id = session_id
        self._owner = owner
        # How many may come: what was said last, and what holds until the service has heard it.
        self._said = 0
        self._most = 0
        self._received = 0
        self._acknowledged = 0
        self._over = False
        self._quiet_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self.changed = asyncio.Event()

    @property
    def open(self) -> int:
        return self._most - self._received

    async def say(self) -> AsyncIterator[tasks_pb2.OfferRequest]:
        """The worker's side, until its session is another."""
        self._said = self._most = _share(max(0, self._owner.spare()))
        yield tasks_pb2.OfferRequest(session_id=self._session_id, most=self._said)
        # The library may go on asking after the stream has ended.
        while not self._over and self._owner.session() == self._session_id:
            if self._decide():
                yield tasks_pb2.OfferRequest(most=self._said, received=self._received)
                continue
            await self.changed.wait()
            self.changed.clear()

    def take(self, response: tasks_pb2.OfferResponse) -> None:
        """The service's side."""
        self._received += len(response.claimed)
        before, self._most = self._most, max(self._said, response.most)
        self._owner.start(self._session_id, list(response.claimed))
        if self._most < before:
            self._owner.freed()
        self.changed.set()

    def hush(self) -> None:
        """Offers no more for a moment."""
        self._quiet_at = asyncio.get_running_loop().time() + _QUIET_SECONDS
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
            return True
        # Few more are worth a message only where one is sent anyway.
        wanted = _share(spare)
        if wanted > said and (news or said <= wanted // 2) and self._is_quiet():
            self._said = self._received + wanted
            self._most = max(self._most, self._said)
            return True
        return news

    def _is_quiet(self) -> bool:
        loop = asyncio.get_running_loop()
        if (rest := self._quiet_at - loop.time()) <= 0:
            return True
        if self._timer is None:
            self._timer = loop.call_later(rest, self._look_again)
        return False

    def _look_again(self) -> None:
        self._timer = None
        self.changed.set()


class Offers:
    """One stream of offered slots after the other, for as long as the process has a session."""

    def __init__(self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", owner: Offerer) -> None:
        self._tasks = tasks
        self._owner = owner
        self._stream: _Stream | None = None
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._closed.set()

    @property
    def open(self) -> int:
        """Slots that may be filled at any moment."""
        return 0 if self._stream is None else self._stream.open

    def wake(self) -> None:
        """A slot is free, or a session came or went."""
        self._changed.set()
        if self._stream is not None:
            self._stream.changed.set()

    def pointers_came(self) -> None:
        """What comes by pointer comes first for a moment; slots that it lacks are taken back."""
        if self._stream is not None:
            self._stream.hush()

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
            stream = self._stream = _Stream(session_id, self._owner)
            self._closed.clear()
            broke = False
            try:
                async for response in self._tasks.Offer(stream.say()):
                    failures = 0
                    stream.take(response)
            except MeshError as error:
                broke = True
                if failures == 0:
                    log.info("The stream of offered slots broke", session=session_id, error=str(error))
            finally:
                stream.end()
                self._closed.set()
                self._owner.freed()
            if broke:
                self._owner.broke()
            if self._owner.session() is not None:
                await asyncio.sleep(backoff_seconds(failures, first=_FIRST_PAUSE_SECONDS, most=_MAX_PAUSE_SECONDS))
                failures += 1
            if broke:
                # Only what is missing twice is known to be missing.
                self._owner.broke()


def _share(spare: int) -> int:
    return min((spare + 1) // _SHARE, MOST_OFFERED)
