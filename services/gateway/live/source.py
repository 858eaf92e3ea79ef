"""Where the frames of a feed come from: the events of the bus, and whoever can be asked for those it did not bring."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from chassis.messaging.message import Message
from services.gateway.live.frames import Frame

# Whether anybody is there to hear of what belongs to that user.
Watched = Callable[[str], bool]


class Source(Protocol):
    """One feed's events and their history."""

    def frames_of(self, message: Message, watched: Watched) -> Sequence[Frame]:
        """The frames for a message, none where sockets are told nothing. Raises DecodeError for a body that is none."""

    async def history(self, subject: str, since: int) -> list[Frame]:
        """The frames of a subject, in order, from those after sequence `since` at the latest. Raises MeshError."""

    async def recent(self, owner: str, since: datetime) -> list[str] | None:
        """Subjects of a user (empty: of all) about which there may be news since then.

        None where they may be more than can be told. Raises MeshError.
        """
