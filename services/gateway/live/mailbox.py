"""What waits to be written to one socket: bounded, so that a slow reader costs itself and nobody else."""

import asyncio
from collections import deque
from dataclasses import dataclass

from services.gateway.live.frames import Frame

_MOST_FRAMES = 256
_MOST_CHARACTERS = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a socket is closed, as WebSocket says it: a code and a short reason."""

    code: int
    reason: str


GOING_AWAY = Ending(code=1001, reason="The gateway is going away; connect again")
TOO_SLOW = Ending(code=1013, reason="Frames were not read fast enough")
MISSED = Ending(code=1013, reason="Events may be missing; connect again")
NOT_ALLOWED = Ending(code=4401, reason="The credential has expired or was revoked")


class Mailbox:
    """Frames in order. Passing ones give way when it is full; one that may not be lost ends the socket instead.

    Args:
        only: the one subject it takes frames of; empty for all.
    """

    def __init__(self, most_frames: int = _MOST_FRAMES, *, only: str = "") -> None:
        self._most_frames = most_frames
        self._only = only
        self._frames: deque[Frame] = deque()
        self._characters = 0
        # Frames of subjects whose past is being read: they follow it.
        self._held: dict[str, list[Frame]] = {}
        self._filled = asyncio.Event()
        self._ended = asyncio.Event()
        self._ending: Ending | None = None

    def put(self, frame: Frame) -> None:
        """Never waits."""
        if self._only and frame.subject != self._only:
            return
        if frame.subject in self._held:
            self._hold(frame)
            return
        while self._is_full(frame):
            if not self._make_room():
                if not frame.passing:
                    self.end(TOO_SLOW)
                return
        self._frames.append(frame)
        self._characters += len(frame.text)
        self._filled.set()

    def hold(self, subject: str) -> None:
        """What comes of a subject from now on waits for `follow`, which tells its past first."""
        self._held.setdefault(subject, [])

    def follow(self, subject: str, past: list[Frame]) -> None:
        """Puts the past of a subject, then what came meanwhile and is not in it."""
        came = self._held.pop(subject, [])
        last = past[-1].sequence if past else 0
        for frame in (*past, *(frame for frame in came if frame.sequence > last)):
            self.put(frame)

    def _hold(self, frame: Frame) -> None:
        held = self._held[frame.subject]
        if len(held) >= self._most_frames:
            self.end(TOO_SLOW)
            return
        held.append(frame)

    def _is_full(self, frame: Frame) -> bool:
        if not self._frames:
            return False
        return len(self._frames) >= self._most_frames or self._characters + len(frame.text) > _MOST_CHARACTERS

    def _make_room(self) -> bool:
        for index, waiting in enumerate(self._frames):
            if waiting.passing:
                del self._frames[index]
                self._characters -= len(waiting.text)
                return True
        return False

    async def take(self) -> Frame:
        """The next frame, when there is one."""
        while not self._frames:
            self._filled.clear()
            await self._filled.wait()
        frame = self._frames.popleft()
        self._characters -= len(frame.text)
        return frame

    def end(self, ending: Ending) -> None:
        """Asks for the end of the socket; the first reason stands."""
        if self._ending is None:
            self._ending = ending
            self._ended.set()

    @property
    def ending(self) -> Ending | None:
        """Why it is to end; None while it is not."""
        return self._ending

    async def ended(self) -> Ending:
        """Waits until the end is asked for."""
        await self._ended.wait()
        return self._ending or GOING_AWAY
