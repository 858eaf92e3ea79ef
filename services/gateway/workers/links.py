"""All worker sockets of this process: made, found by their session when another takes it over, and ended with it."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from starlette.websockets import WebSocket

from chassis.errors import Unavailable
from services.gateway.workers.link import Arrival, Behind, Link

_MOST_LINKS = 2000
# Sessions whose sockets have ended, and attempts of each: its worker may come back and ask for an answer that was lost.
_MOST_SESSIONS = 2000
_MOST_PAST = 100
# Of the time the process has for its end.
_GRACE_SHARE = 0.4


class Links:
    """The sockets.

    Args:
        drain_seconds: that the process has for its end.
    """

    def __init__(self, behind: Behind, drain_seconds: float) -> None:
        self._behind = behind
        self._grace_seconds = drain_seconds * _GRACE_SHARE
        self._links: set[Link] = set()
        self._past: OrderedDict[str, Mapping[tuple[str, int], bool]] = OrderedDict()
        self._draining = False

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._links)

    def check_room(self) -> None:
        """Raises Unavailable when no further worker can be served here."""
        if self._draining or len(self._links) >= _MOST_LINKS:
            raise Unavailable("This gateway serves no further workers", code="WORKERS_FULL", retry_after_seconds=1)

    async def serve(self, socket: WebSocket, arrival: Arrival, still_allowed: Callable[[], Awaitable[bool]]) -> None:
        """Runs an accepted socket to its end."""
        link = Link(self._behind, socket, arrival, self._take_over)
        self._links.add(link)
        try:
            await link.run(still_allowed)
        finally:
            self._links.discard(link)
            self._remember(link)

    def _take_over(self, by: Link, session_id: str) -> None:
        """A socket that may look alive still gives way to the one that its worker speaks on now."""
        by.remember(self._past.get(session_id, {}))
        for link in self._links:
            if link is not by and link.session_id == session_id:
                by.follow(link)

    def _remember(self, ended: Link) -> None:
        """What its worker held, for the socket that went on already, or will, whether its session does or not."""
        past = dict(list(ended.past.items())[-_MOST_PAST:])
        for session_id in ended.session_ids if past else ():
            self._past[session_id] = past
            self._past.move_to_end(session_id)
        while len(self._past) > _MOST_SESSIONS:
            self._past.popitem(last=False)
        for link in self._links:
            if link.session_id in ended.session_ids:
                link.remember(past)

    async def drain(self) -> None:
        """Takes no new workers, and returns when all have gone."""
        self._draining = True
        await asyncio.gather(*(link.retire(self._grace_seconds) for link in list(self._links)))
        while self._links:  # noqa: ASYNC110 - it happens once
            await asyncio.sleep(0.05)
