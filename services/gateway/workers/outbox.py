"""What waits to be written to one worker: bounded. None of it may be lost, so who does not read is let go."""

import asyncio
from collections import deque

_MOST_FRAMES = 4096
_MOST_CHARACTERS = 8 * 1024 * 1024
# Beyond this no more tasks are claimed for the worker until it has read.
_ROOMY_CHARACTERS = 1024 * 1024


class Overflow(Exception):
    """More waits than may."""


class Outbox:
    """Frames in order."""

    def __init__(self) -> None:
        self._frames: deque[str] = deque()
        self._characters = 0
        self._filled = asyncio.Event()

    @property
    def is_roomy(self) -> bool:
        """Whether the worker reads what it is sent."""
        return self._characters < _ROOMY_CHARACTERS

    def put(self, text: str) -> None:
        """Never waits. Raises Overflow."""
        self._characters += len(text)
        if len(self._frames) >= _MOST_FRAMES or self._characters > _MOST_CHARACTERS:
            raise Overflow
        self._frames.append(text)
        self._filled.set()

    async def take(self) -> str:
        """The next frame, when there is one."""
        while not self._frames:
            self._filled.clear()
            await self._filled.wait()
        return self._pop()

    def rest(self) -> list[str]:
        """What waits, removed."""
        return [self._pop() for _ in range(len(self._frames))]

    def _pop(self) -> str:
        text = self._frames.popleft()
        self._characters -= len(text)
        return text
