"""What a transaction announces: messages into its outboxes, and the relays woken after the commit.

Knows no wording: notices are turned into messages by a function it is given.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from chassis.database import Database, DriverConnection
from chassis.messaging.message import WORK, Message
from chassis.messaging.outbox import enqueue
from services.tasks.model.task import Notice
from services.tasks.tables import outbox, outbox_events

Wording = Callable[[Notice], Sequence[Message]]


class Outgoing:
    """Opens transactions that may announce something."""

    def __init__(self, database: Database, wording: Wording, wake: Callable[[], None]) -> None:
        self._database = database
        self._wording = wording
        self._wake = wake

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[DriverConnection]:
        """One transaction; after its commit the relays look at the outboxes."""
        async with self._database.driver() as pg:
            yield pg
        self._wake()

    async def announce(self, pg: DriverConnection, notices: Sequence[Notice]) -> None:
        """Puts the messages of these notices into the outboxes of this transaction."""
        messages = [message for notice in notices for message in self._wording(notice)]
        await enqueue(pg, outbox, [message for message in messages if message.exchange == WORK])
        await enqueue(pg, outbox_events, [message for message in messages if message.exchange != WORK])
