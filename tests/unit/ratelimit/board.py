"""A board in memory, and instances that share it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chassis.errors import Unavailable
from services.ratelimit.ports import Notice
from services.ratelimit.rules.file import RuleFile
from services.ratelimit.rules.force import RulesInForce
from tests.support.clock import FakeClock

NOTHING = Notice(revision=0, source="", file=0)


class MemoryBoard:
    """As Redis keeps it. `away` makes it raise, `notice` is what it knows."""

    def __init__(self) -> None:
        self.notice = NOTHING
        self.away = False
        self._posted = asyncio.Event()

    def _check(self) -> None:
        if self.away:
            raise Unavailable

    async def read(self) -> Notice:
        self._check()
        return self.notice

    async def post(self, notice: Notice, *, after: int) -> bool:
        self._check()
        if after != self.notice.revision:
            return False
        self.notice = notice
        self._posted.set()
        self._posted = asyncio.Event()
        return True

    async def wait(self, *, after: int, timeout_seconds: float) -> None:
        del timeout_seconds
        self._check()
        if self.notice.revision <= after:
            # A hundredth of the real one's patience.
            await asyncio.wait([asyncio.ensure_future(self._posted.wait())], timeout=0.005)
            self._check()


def rules(limit: int) -> str:
    """A rules file with one rule."""
    return (
        "version: 1\nclasses:\n  chat:\n"
        f"    - {{ name: chat, algorithm: sliding_window, per: user, limit: {limit}, window: 1m }}\n"
    )


def save(path: Path, text: str) -> None:
    """Writes a file."""
    path.write_text(text)


class Instance:
    """The rules of one process."""

    def __init__(self, board: MemoryBoard, path: Path | None = None) -> None:
        self.file = RuleFile(path)
        self.rules = RulesInForce(self.file, board, FakeClock())

    @property
    def limit(self) -> int:
        """The limit in force; 0 for the built-in rules."""
        classes = self.rules.book.classes
        return classes["chat"][0]["default"].limit if "chat" in classes else 0

    async def write(self, path: Path, text: str) -> None:
        """Changes the file, and does what the watch of the file would do."""
        save(path, text)
        if self.file.reload():
            await self.rules.file_changed()

    async def until(self, limit: int) -> None:
        """Waits until a limit is in force."""
        async with asyncio.timeout(20):
            while self.limit != limit:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def following(board: MemoryBoard, *paths: Path | None) -> AsyncIterator[list[Instance]]:
    """Started instances that follow the board, one for each file."""
    instances = [Instance(board, path) for path in paths]
    for one in instances:
        await one.rules.start(1.0)
    tasks = [asyncio.get_running_loop().create_task(one.rules.follow()) for one in instances]
    try:
        yield instances
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
