"""One feed: what the bus brings goes in order to those who watch, and what it did not bring is looked up for them.

The bus may lose what it carries to us: our queue goes with its connection, and events that nobody has a queue for are
published to nobody. So each new subscription is followed by a look at everything that may have happened meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from chassis.clock import Clock
from chassis.errors import MeshError, NotFound
from chassis.logging import get_logger
from chassis.messaging.message import Message
from services.gateway.live.frames import Frame
from services.gateway.live.mailbox import MISSED, Mailbox
from services.gateway.live.order import Order
from services.gateway.live.rooms import EVERYBODY, Rooms
from services.gateway.live.source import Source

log = get_logger(__name__)

_SWEEP_EVERY_SECONDS = 0.1
_ASK_AGAIN_SECONDS = 1.0
# Sockets that would have to be told what cannot be looked up for so long are closed instead: their clients connect
# again and say what they have seen.
_PATIENCE_SECONDS = 30.0
_LOOKUPS_AT_ONCE = 16
# Between an event and its news there are a commit, a relay and two clocks.
_MARGIN = timedelta(seconds=5)
_SUBSCRIBED_WITHIN_SECONDS = 1.0


class Hub:
    """One feed in one process."""

    def __init__(self, clock: Clock, source: Source) -> None:
        self._clock = clock
        self.source = source
        self.rooms = Rooms()
        self._order = Order()
        self._heard_at: datetime | None = None
        self._missed_since: datetime | None = None
        # How often something may have been lost: a look that began before the last time has not seen it all.
        self._losses = 0
        # Subjects to be looked up, and since when (monotonic seconds) that has been tried in vain.
        self._suspected: dict[str, float | None] = {}
        self._failing_since: float | None = None
        self._ask_at = float("-inf")
        self._subscribed = asyncio.Event()
        self._limit = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    @contextmanager
    def joined(self, room: str, only: str = "") -> Iterator[Mailbox]:
        """See `Rooms.joined`."""
        if self._heard_at is None:
            self._heard_at = self._clock.now()
        try:
            with self.rooms.joined(room, only) as mailbox:
                yield mailbox
        finally:
            if not self.rooms.watched(room):
                # What happens while nobody is there is not heard; whoever comes back is told from the records.
                self._order.forget(room)

    async def listening(self) -> None:
        """Waits a moment for the bus to be listened to; what happens before that is looked up later."""
        try:
            async with asyncio.timeout(_SUBSCRIBED_WITHIN_SECONDS):
                await self._subscribed.wait()
        except TimeoutError:
            log.info("Somebody watches before the bus is heard")

    def tell(self, message: Message) -> None:
        """Passes an event on to those it belongs to, in order. Raises DecodeError for a body that is none."""
        if self._heard_at is None or message.time > self._heard_at:
            self._heard_at = message.time
        for frame in self.source.frames_of(message, self.rooms.watched):
            self._send(self._order.accept(frame, self._clock.monotonic()))

    def suspect(self) -> None:
        """A subscription is new and has brought nothing yet: what was told while none stood is looked up next."""
        self._subscribed.set()
        self._losses += 1
        if self._missed_since is None and self._heard_at is not None:
            self._missed_since = self._heard_at - _MARGIN
        for name in self._order.unfinished():
            self._suspected.setdefault(name, None)

    def silence(self) -> None:
        """The bus is not listened to any more, because nobody watches; nothing that is known here stays true."""
        self._subscribed.clear()
        self._order = Order()
        self._suspected.clear()
        self._failing_since = None
        if not self.rooms.sockets:
            self._heard_at = self._missed_since = None
        # Else somebody came while the subscription ended: for them the next one looks up what happened in between.

    def _send(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.rooms.send(frame)

    async def sweep(self) -> None:
        """For ever: fills what is missing."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY_SECONDS)
            await self.fill()

    async def fill(self) -> None:
        """Looks up what the bus did not bring, and tells it. What cannot be looked up now is tried again."""
        now = self._clock.monotonic()
        for name in self._order.overdue(now):
            self._suspected.setdefault(name, None)
        if now < self._ask_at or not (self._suspected or self._missed_since):
            return
        self._ask_at = now
        await self._look_for_unknown()
        await asyncio.gather(*(self._look_up(name) for name in list(self._suspected)))

    async def _look_for_unknown(self) -> None:
        """Finds the subjects that began, or went on, without our hearing of them at all."""
        if self._missed_since is None:
            return
        since, losses = self._missed_since, self._losses
        try:
            for owner in self.rooms.owners:
                await self._look_for_unknown_of(owner, since)
        except MeshError as error:
            self._failing_since = self._fail("events", error, self._failing_since, lambda: self._give_up(""))
            return
        self._failing_since = None
        if self._losses == losses:
            self._missed_since = None

    async def _look_for_unknown_of(self, owner: str, since: datetime) -> None:
        names = await self.source.recent("" if owner == EVERYBODY else owner, since)
        if names is None:
            log.warning("Events may be missing, of more than can be looked up; their sockets end", owner=owner)
            self.rooms.end(owner, MISSED)
            return
        for name in names:
            if not self._order.knows(name):
                self._suspected.setdefault(name, None)

    async def _look_up(self, name: str) -> None:
        owner = self._order.owner_of(name)
        # Where nobody watches there is nobody to look it up for.
        if not self.rooms.owners or not self.rooms.watched(owner):
            self._suspected.pop(name, None)
            self._send(self._order.go_on(name))
            return
        losses, held = self._losses, self._order.first_held(name)
        try:
            async with self._limit:
                history = await self.source.history(name, self._order.told_up_to(name))
        except NotFound:
            history = []
        except MeshError as error:
            since = self._fail(name, error, self._suspected.get(name), lambda: self._give_up(owner, name))
            if since is not None:
                self._suspected[name] = since
            return
        if self._losses == losses:
            self._suspected.pop(name, None)
        else:
            self._suspected[name] = None
        self._send(self._order.catch_up(name, history))
        # What is told has been recorded before. So what waited already when the records were read, and waits still,
        # waits for what there is not; what came meanwhile may be newer than the answer.
        if held and self._order.first_held(name) == held:
            self._send(self._order.go_on(name))

    def _fail(self, what: str, error: MeshError, since: float | None, give_up: Callable[[], None]) -> float | None:
        """Notes that something cannot be looked up. Returns since when, None when it was given up."""
        now = self._clock.monotonic()
        self._ask_at = now + _ASK_AGAIN_SECONDS
        if since is None:
            log.warning("Events are missing and cannot be looked up yet", subject=what, error=str(error))
            return now
        if now - since < _PATIENCE_SECONDS:
            return since
        log.error("Events are missing and could not be looked up; their sockets end", subject=what, error=str(error))
        give_up()
        return None

    def _give_up(self, owner: str, name: str = "") -> None:
        self.rooms.end(owner, MISSED)
        if name:
            self._suspected.pop(name, None)
            self._order.go_on(name)
        else:
            self._missed_since = None

    async def drain(self) -> None:
        """Ends every socket, takes no new one, and returns when all have gone."""
        await self.rooms.drain()
