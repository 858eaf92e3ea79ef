"""What a process says of itself: alive, ready, and how its dependencies are.

Liveness asks nothing of anybody: it holds as long as the event loop turns. Readiness means started and not draining;
a dependency that goes away later does not end it, because each service still does what it can without (a store's
hiccup must not take every instance out of rotation at once). Pings refresh in the background, so answers come from
memory.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chassis.clock import Clock
from chassis.logging import get_logger

log = get_logger(__name__)

Ping = Callable[[], Awaitable[None]]

_PING_EVERY_SECONDS = 2.0
_PING_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The last answer of one dependency. `latency_seconds` is that of the last ping, `error` empty when it answered."""

    name: str
    ok: bool
    latency_seconds: float
    error: str


class Health:
    """Named pings and the two states; listeners hear of changes of readiness."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pings: dict[str, Ping] = {}
        self._checks: dict[str, Check] = {}
        self._listeners: list[Callable[[bool], Awaitable[None]]] = []
        self._ready = False

    @property
    def ready(self) -> bool:
        """Started and not draining."""
        return self._ready

    @property
    def checks(self) -> tuple[Check, ...]:
        """The last answer of each dependency, in the order they were added."""
        return tuple(self._checks.values())

    def add(self, name: str, ping: Ping) -> None:
        """Names a dependency. `ping` raises when it does not answer."""
        self._pings[name] = ping
        self._checks[name] = Check(name=name, ok=False, latency_seconds=0.0, error="not asked yet")

    def on_change(self, listener: Callable[[bool], Awaitable[None]]) -> None:
        """Calls `listener` with the new state whenever readiness changes."""
        self._listeners.append(listener)

    async def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - it is the state itself
        """Changes readiness and tells the listeners."""
        if ready == self._ready:
            return
        self._ready = ready
        for listener in self._listeners:
            await listener(ready)

    async def watch(self) -> None:
        """Refreshes all checks for ever."""
        while True:
            await asyncio.gather(*(self._ask(name, ping) for name, ping in self._pings.items()))
            await asyncio.sleep(_PING_EVERY_SECONDS)

    async def _ask(self, name: str, ping: Ping) -> None:
        began = self._clock.monotonic()
        error = ""
        try:
            async with asyncio.timeout(_PING_TIMEOUT_SECONDS):
                await ping()
        except Exception as failure:  # noqa: BLE001 - whatever a dependency raises is its answer
            error = f"{type(failure).__name__}: {failure}"
        before = self._checks[name]
        after = Check(name=name, ok=not error, latency_seconds=self._clock.monotonic() - began, error=error)
        self._checks[name] = after
        if before.ok and not after.ok:
            log.warning("A dependency does not answer", dependency=name, error=error)
        elif after.ok and not before.ok and before.error != "not asked yet":
            log.info("A dependency answers again", dependency=name)
