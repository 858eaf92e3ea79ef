"""How this machine is, told every few seconds to whoever watches."""

import asyncio
from collections.abc import Callable

import psutil

from chassis.clock import Clock
from services.gateway.live.frames import Frame, metrics_frame
from services.gateway.live.rooms import Rooms

_EVERY_SECONDS = 5.0


class Figures:
    """The figures.

    Args:
        health_score: how many of this process's dependencies answer, from 0 to 1.
    """

    def __init__(self, rooms: Rooms, clock: Clock, health_score: Callable[[], float]) -> None:
        self._rooms = rooms
        self._clock = clock
        self._health_score = health_score

    async def measure(self) -> None:
        """For ever: tells everybody how the machine is."""
        psutil.cpu_percent()
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            if self._rooms.sockets:
                self._rooms.send(self.metrics())

    def metrics(self) -> Frame:
        """How the machine is now; processor load since this was last asked."""
        return metrics_frame(
            cpu_percent=psutil.cpu_percent(),
            memory_percent=psutil.virtual_memory().percent,
            health_score=self._health_score(),
            now=self._clock.now(),
        )
