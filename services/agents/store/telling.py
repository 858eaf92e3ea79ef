"""What a commit leaves behind to be told: to the bus, and to the webhooks of whoever it concerns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.messaging.message import Message
from chassis.messaging.outbox import enqueue
from services.agents.tables import outbox, owner_outbox

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling(Generic[T]):
    """How changes of one sort are told.

    Attributes:
        announce: the message on the bus.
        tell_owner: the message for the owner's webhooks; None where there is no owner.
        committed: called after a commit that left messages.
    """

    announce: Callable[[T], Message]
    tell_owner: Callable[[T], Message | None]
    committed: Callable[[], None]

    async def write(self, connection: AsyncConnection, changes: Sequence[T]) -> None:
        """Leaves the messages in the caller's transaction."""
        await enqueue(connection, outbox, [self.announce(change) for change in changes])
        told = [message for change in changes if (message := self.tell_owner(change)) is not None]
        await enqueue(connection, owner_outbox, told)
