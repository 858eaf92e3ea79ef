"""Who watches, and what they are told: events to the sockets of their owner, figures of the machine to everybody."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import psutil
from mesh.agents.v1 import agents_pb2

from chassis.clock import Clock
from chassis.errors import Exhausted, MeshError
from chassis.logging import get_logger
from chassis.messaging.message import Message
from services.gateway.live.frames import Frame, frame_of, history_of, metrics_frame
from services.gateway.live.mailbox import GOING_AWAY, Mailbox
from services.gateway.live.order import Order

log = get_logger(__name__)

PATTERNS = ("agents.#",)
_MOST_SOCKETS_EACH = 100
_METRICS_EVERY_SECONDS = 5.0
_SWEEP_EVERY_SECONDS = 0.5
_LATER_SECONDS = 5.0

# The execution of that id, as it is now. Raises MeshError.
History = Callable[[str], Awaitable[agents_pb2.Execution]]


class Hub:
    """One process's sockets.

    Args:
        health_score: how many of this process's dependencies answer, from 0 to 1.
    """

    def __init__(self, clock: Clock, health_score: Callable[[], float]) -> None:
        self._clock = clock
        self._health_score = health_score
        self._rooms: dict[str, set[Mailbox]] = {}
        self._order = Order()
        self._history: History | None = None
        self._suspected: list[str] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False

    @property
    def sockets(self) -> int:
        """How many are open."""
        return sum(map(len, self._rooms.values()))

    @contextmanager
    def joined(self, user_id: str) -> Iterator[Mailbox]:
        """A mailbox that is filled with what belongs to a user. Raises Exhausted beyond 100 of one user."""
        room = self._rooms.setdefault(user_id, set())
        if self._draining or len(room) >= _MOST_SOCKETS_EACH:
            self._leave_if_empty(user_id)
            raise Exhausted(
                f"At most {_MOST_SOCKETS_EACH} sockets a user",
                code="TOO_MANY_SOCKETS",
                retry_after_seconds=_LATER_SECONDS,
            )
        mailbox = Mailbox()
        room.add(mailbox)
        self._empty.clear()
        try:
            yield mailbox
        finally:
            room.discard(mailbox)
            self._leave_if_empty(user_id)

    def _leave_if_empty(self, user_id: str) -> None:
        if not self._rooms.get(user_id):
            self._rooms.pop(user_id, None)
        if not self._rooms:
            self._empty.set()

    def tell(self, message: Message) -> None:
        """Passes an event on to those it belongs to, in order. Raises DecodeError for a body that is none."""
        frame = frame_of(message)
        if frame is not None:
            for ready in self._order.accept(frame, self._clock.monotonic()):
                self._send(ready)

    def _send(self, frame: Frame) -> None:
        rooms = [self._rooms.get(frame.owner, set())] if frame.owner else list(self._rooms.values())
        for room in rooms:
            for mailbox in room:
                mailbox.put(frame)

    def learn_from(self, history: History) -> None:
        """Names whom to ask for what the bus did not bring."""
        self._history = history

    def suspect(self) -> None:
        """The bus may have told something while nobody listened: what is unfinished is looked up at the next sweep."""
        self._suspected = self._order.unfinished()

    async def sweep(self) -> None:
        """For ever: fills what is missing."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY_SECONDS)
            await self.fill()

    async def fill(self) -> None:
        """Tells what the bus did not bring, from the history; where that cannot be read, goes on without it."""
        suspected, self._suspected = self._suspected, []
        for subject in dict.fromkeys((*self._order.overdue(self._clock.monotonic()), *suspected)):
            for frame in await self._missing(subject):
                self._send(frame)

    async def _missing(self, subject: str) -> list[Frame]:
        # Where nobody watches there is nobody to look it up for.
        if self._history is not None and self._order.owner_of(subject) in self._rooms:
            try:
                return self._order.catch_up(subject, history_of(await self._history(subject)))
            except MeshError as error:
                log.warning("Events are missing and cannot be looked up", subject=subject, error=str(error))
        return self._order.go_on(subject)

    async def measure(self) -> None:
        """For ever: tells everybody how the machine is."""
        psutil.cpu_percent()
        while True:
            await asyncio.sleep(_METRICS_EVERY_SECONDS)
            if self._rooms:
                self._send(self.metrics())

    def metrics(self) -> Frame:
        """How the machine is now; processor load since this was last asked."""
        return metrics_frame(
            cpu_percent=psutil.cpu_percent(),
            memory_percent=psutil.virtual_memory().percent,
            health_score=self._health_score(),
            now=self._clock.now(),
        )

    async def drain(self) -> None:
        """Closes every socket, takes no new one, and returns when all have gone."""
        self._draining = True
        for room in self._rooms.values():
            for mailbox in room:
                mailbox.end(GOING_AWAY)
        await self._empty.wait()
