"""What waits to be written to one socket: bounded, so that a slow reader costs itself and nobody else."""

import asyncio
from collections import deque
from dataclasses import dataclass

from services.gateway.live.frames import Frame

_MOST_FRAMES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a socket is closed, as WebSocket says it: a code and a short reason."""

    code: int
    reason: str


GOING_AWAY = Ending(code=1001, reason="The gateway is going away; connect again")
TOO_SLOW = Ending(code=1013, reason="Frames were not read fast enough")
NOT_ALLOWED = Ending(code=4401, reason="The credential has expired or was revoked")


class Mailbox:
    """Frames in order. Passing ones give way when it is full; one that may not be lost ends the socket instead."""

    def __init__(self, most_frames: int = _MOST_FRAMES) -> None:
        self._most_frames = most_frames
        self._frames: deque[Frame] = deque()
        self._filled = asyncio.Event()
        self._ended = asyncio.Event()
        self._ending: Ending | None = None

    def put(self, frame: Frame) -> None:
        """Never waits."""
        if len(self._frames) >= self._most_frames and not self._make_room():
            if not frame.passing:
                self.end(TOO_SLOW)
            return
        self._frames.append(frame)
        self._filled.set()

    def _make_room(self) -> bool:
        for index, waiting in enumerate(self._frames):
            if waiting.passing:
                del self._frames[index]
                return True
        return False

    async def take(self) -> Frame:
        """The next frame, when there is one."""
        while not self._frames:
            self._filled.clear()
            await self._filled.wait()
        return self._frames.popleft()

    def end(self, ending: Ending) -> None:
        """Asks for the end of the socket; the first reason stands."""
        if self._ending is None:
            self._ending = ending
            self._ended.set()

    async def ended(self) -> Ending:
        """Waits until the end is asked for."""
        await self._ended.wait()
        return self._ending or GOING_AWAY
