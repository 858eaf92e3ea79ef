"""Who watches: the mailboxes of each user, and those of administrators who watch everybody."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from chassis.errors import Exhausted
from services.gateway.live.frames import Frame
from services.gateway.live.mailbox import GOING_AWAY, Ending, Mailbox

# The room in which everything is heard.
EVERYBODY = "*"
_MOST_SOCKETS_EACH = 100
_LATER_SECONDS = 5.0


class Rooms:
    """One feed's sockets in this process."""

    def __init__(self) -> None:
        self._rooms: dict[str, set[Mailbox]] = {}
        self._occupied = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False

    @property
    def sockets(self) -> int:
        """How many are open."""
        return sum(map(len, self._rooms.values()))

    @property
    def owners(self) -> list[str]:
        """Whose news are watched; `EVERYBODY` alone where somebody watches all."""
        return [EVERYBODY] if EVERYBODY in self._rooms else list(self._rooms)

    def watched(self, owner: str) -> bool:
        """Whether anybody hears what belongs to that user; what belongs to nobody, everybody hears."""
        return bool(self._rooms) and (not owner or owner in self._rooms or EVERYBODY in self._rooms)

    @contextmanager
    def joined(self, room: str, only: str = "") -> Iterator[Mailbox]:
        """A mailbox that is filled with what belongs to a user, or with everything.

        Raises Exhausted (code ``TOO_MANY_SOCKETS``) beyond 100 in one room.

        Args:
            only: the one subject that is watched; empty for all.
        """
        mailboxes = self._rooms.setdefault(room, set())
        if self._draining or len(mailboxes) >= _MOST_SOCKETS_EACH:
            self._leave_if_empty(room)
            raise Exhausted(
                f"At most {_MOST_SOCKETS_EACH} sockets a user",
                code="TOO_MANY_SOCKETS",
                retry_after_seconds=_LATER_SECONDS,
            )
        mailbox = Mailbox(only=only)
        mailboxes.add(mailbox)
        self._empty.clear()
        self._occupied.set()
        try:
            yield mailbox
        finally:
            mailboxes.discard(mailbox)
            self._leave_if_empty(room)

    def _leave_if_empty(self, room: str) -> None:
        if not self._rooms.get(room):
            self._rooms.pop(room, None)
        if not self._rooms:
            self._occupied.clear()
            self._empty.set()

    def send(self, frame: Frame) -> None:
        """Puts a frame into every mailbox that it belongs into."""
        names = (frame.owner, EVERYBODY) if frame.owner else tuple(self._rooms)
        for name in names:
            for mailbox in self._rooms.get(name, ()):
                mailbox.put(frame)

    def end(self, owner: str, ending: Ending) -> None:
        """Ends the sockets that hear what belongs to a user; an empty owner ends all."""
        names = (owner, EVERYBODY) if owner and owner != EVERYBODY else tuple(self._rooms)
        for name in names:
            for mailbox in self._rooms.get(name, ()):
                mailbox.end(ending)

    async def wait_occupied(self) -> None:
        """Waits until somebody watches."""
        await self._occupied.wait()

    async def wait_empty(self) -> None:
        """Waits until nobody watches."""
        await self._empty.wait()

    async def drain(self) -> None:
        """Ends every socket, takes no new one, and returns when all have gone."""
        self._draining = True
        self.end("", GOING_AWAY)
        await self._empty.wait()
