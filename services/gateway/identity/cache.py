"""Credentials that were verified and still hold, in memory: bounded, and rid of what changed within half a second."""

import asyncio
from collections.abc import Set as AbstractSet
from datetime import datetime

from chassis.clock import Clock
from chassis.errors import MeshError
from chassis.logging import get_logger
from services.gateway.identity.model import Principal
from services.gateway.identity.ports import Change, ChangeFeed

log = get_logger(__name__)

_POLL_EVERY_SECONDS = 0.5
# The feed keeps its rows for a day; whoever was cut off for longer cannot know what it missed.
_LONGEST_GAP_SECONDS = 12 * 3600.0


class VerifiedCredentials:
    """Credential → principal.

    An entry ends with its credential, when news of a change come, or when it is the oldest of too many; time alone
    does not end it, so that warm callers go on while the store is away.
    """

    def __init__(self, clock: Clock, *, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        self._entries: dict[str, tuple[Principal, float]] = {}
        self.version = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, credential: str) -> Principal | None:
        """The principal of a verified credential that still holds."""
        entry = self._entries.get(credential)
        if entry is None:
            return None
        principal, ends_at = entry
        if self._clock.monotonic() < ends_at:
            return principal
        del self._entries[credential]
        return None

    def put(self, credential: str, principal: Principal, expires_at: datetime | None, version: int) -> None:
        """Remembers what was read while the cache had `version`; forgets it at once if news came since."""
        if version != self.version:
            return
        if len(self._entries) >= self._capacity:
            del self._entries[next(iter(self._entries))]
        ends_at = float("inf")
        if expires_at is not None:
            ends_at = self._clock.monotonic() + (expires_at - self._clock.now()).total_seconds()
        self._entries[credential] = principal, ends_at

    def forget(self, subjects: AbstractSet[str]) -> None:
        """Drops every credential of these users, sessions and keys."""
        self.version += 1
        ended = [
            credential
            for credential, (principal, _) in self._entries.items()
            if principal.user_id in subjects or principal.session_id in subjects or principal.key_id in subjects
        ]
        for credential in ended:
            del self._entries[credential]

    def forget_all(self) -> None:
        """Drops everything."""
        self.version += 1
        self._entries.clear()


class Invalidation:
    """Carries news from the feed into the cache, for as long as it runs."""

    def __init__(self, feed: ChangeFeed, cache: VerifiedCredentials, clock: Clock) -> None:
        self._feed = feed
        self._cache = cache
        self._clock = clock
        self._horizon = 0
        self._seen: frozenset[Change] = frozenset()
        self._heard_at = clock.monotonic()
        self._cut_off = False

    async def run(self) -> None:
        """Polls for ever. A store that is away is no end: warm credentials hold until it is back."""
        while True:
            try:
                await self.poll()
                if self._cut_off:
                    log.info("News of revoked credentials arrive again")
                self._cut_off = False
            except MeshError as error:
                if not self._cut_off:
                    log.warning("News of revoked credentials do not arrive", error=str(error))
                self._cut_off = True
            await asyncio.sleep(_POLL_EVERY_SECONDS)

    async def poll(self) -> None:
        """Reads once and forgets what changed.

        Changes since the horizon come again as long as a transaction from before it is open; acting once is enough.
        """
        news = await self._feed.since(self._horizon)
        now = self._clock.monotonic()
        if now - self._heard_at > _LONGEST_GAP_SECONDS:
            self._cache.forget_all()
        self._heard_at, self._horizon = now, news.horizon
        fresh = frozenset(news.changes)
        if unheard := fresh - self._seen:
            self._cache.forget({change.subject for change in unheard})
        self._seen = fresh
