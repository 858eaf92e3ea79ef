"""Clients that watch their tasks all the time, connect again whenever they are cut off, and say what they have seen.

What they were told is to be what happened: every event, in order.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import aiohttp

from tests.support.client import Client
from tests.support.faults.ledger import Ledger

_ENDS = frozenset({"succeeded", "failed", "dead", "cancelled", "expired"})
_PAUSE_SECONDS = 0.3
_HEARTBEAT_SECONDS = 4.0
# One task in so many has a stream of its own, so many of them at once.
_STREAMED = 8
_STREAMS_AT_ONCE = 12
_BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


class Account:
    """What one watcher was told: the types of the events of each task, in order and without a gap."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: dict[str, list[str]] = {}
        self.complaints: list[str] = []

    def last(self, task_id: str) -> int:
        """The sequence of the last event that was told of a task."""
        return len(self.told.get(task_id, ()))

    def note(self, frame: dict[str, Any]) -> None:
        """The next event of a task."""
        self.told.setdefault(frame["task_id"], []).append(frame["type"])

    def has_ended(self, task_id: str) -> bool:
        """Whether its end was told."""
        return self.last(task_id) > 0 and self.told[task_id][-1] in _ENDS


class SocketWatcher:
    """``WS /tasks/updates``: everything of one user. After each connection it says of each task what it has seen."""

    def __init__(self, user: Client, ledger: Ledger) -> None:
        self._user = user
        self._ledger = ledger
        self.account = Account("socket")
        # Of this connection: tasks whose past was asked for, those that were refused it, those told of in order.
        self._asked: set[str] = set()
        self._refused: set[str] = set()
        self._even: set[str] = set()

    async def watch(self) -> None:
        """For ever."""
        while True:
            with suppress(*_BROKEN):
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    socket = await self._user.connect("/tasks/updates", heartbeat_seconds=_HEARTBEAT_SECONDS)
                async with socket:
                    await self._follow(socket)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._asked, self._refused, self._even = set(), set(), set()
        for task_id in self._unfinished():
            await self._ask(socket, task_id)
        asking = asyncio.create_task(self._ask_again(socket))
        try:
            async for message in socket:
                # An error is told like a message, and the end comes next.
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._hear(socket, json.loads(message.data))
        finally:
            asking.cancel()
            await asyncio.wait({asking})

    def _unfinished(self) -> Iterable[str]:
        known = {**self.account.told, **dict.fromkeys(self._ledger.accepted.values())}
        return [task_id for task_id in known if not self.account.has_ended(task_id)]

    async def _ask(self, socket: aiohttp.ClientWebSocketResponse, task_id: str) -> None:
        self._asked.add(task_id)
        await socket.send_json({"type": "subscribe", "task_id": task_id, "since": self.account.last(task_id)})

    async def _ask_again(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            refused, self._refused = self._refused, set()
            for task_id in refused:
                with suppress(*_BROKEN):
                    await self._ask(socket, task_id)

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse, frame: dict[str, Any]) -> None:
        task_id: str = frame.get("task_id", "")
        if frame["type"] == "error":
            self._asked.discard(task_id)
            self._refused.add(task_id)
            return
        expected = self.account.last(task_id) + 1
        if frame["sequence"] == expected:
            self.account.note(frame)
            self._asked.discard(task_id)
            self._even.add(task_id)
        elif frame["sequence"] > expected and task_id not in self._asked:
            # What was before this connection is asked for; what was during it is to come by itself.
            if task_id in self._even:
                told = f"{task_id}: a socket was told {frame['sequence']} when {expected} was next"
                self.account.complaints.append(told)
            await self._ask(socket, task_id)


class StreamWatcher:
    """``GET /api/v1/tasks/{id}/events`` as a stream, of some tasks, each from where the connection before it broke."""

    def __init__(self, user: Client, ledger: Ledger) -> None:
        self._user = user
        self._ledger = ledger
        self.account = Account("stream")
        self.chosen: list[str] = []
        self._gate = asyncio.Semaphore(_STREAMS_AT_ONCE)

    async def watch(self) -> None:
        """For ever: follows one task in eight, as they are accepted."""
        async with asyncio.TaskGroup() as group:
            while True:
                accepted = list(self._ledger.accepted.values())[::_STREAMED]
                for task_id in accepted[len(self.chosen) :]:
                    self.chosen.append(task_id)
                    group.create_task(self._follow(task_id))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(self, task_id: str) -> None:
        async with self._gate:
            while not self.account.has_ended(task_id):
                with suppress(*_BROKEN):
                    async for frame in self._frames(task_id):
                        self._hear(task_id, frame)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _frames(self, task_id: str) -> AsyncIterator[dict[str, Any]]:
        path = f"/api/v1/tasks/{task_id}/events?since={self.account.last(task_id)}"
        async with self._user.stream(path) as lines:
            async for line in lines:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    def _hear(self, task_id: str, frame: dict[str, Any]) -> None:
        expected = self.account.last(task_id) + 1
        if frame["sequence"] == expected:
            self.account.note(frame)
        else:
            told = f"{task_id}: a stream was told {frame['sequence']} when {expected} was next"
            self.account.complaints.append(told)


class Watchers:
    """All of them, for the length of a run."""

    def __init__(self, user: Client, ledger: Ledger) -> None:
        self._ledger = ledger
        self.socket = SocketWatcher(user, ledger)
        self.streams = StreamWatcher(user, ledger)

    async def watch(self) -> None:
        """For ever."""
        await asyncio.gather(self.socket.watch(), self.streams.watch())

    async def wait_for_ends(self, seconds: float) -> list[str]:
        """Waits until each was told of every end; returns what was not, in a sentence each."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waiting():
                    await asyncio.sleep(_PAUSE_SECONDS)
        return [f"{task_id}: a {account.name} was not told of its end" for account, task_id in self._waiting()]

    def _waiting(self) -> list[tuple[Account, str]]:
        socket, streams = self.socket.account, self.streams.account
        waiting = [(socket, one) for one in self._ledger.accepted.values() if not socket.has_ended(one)]
        return waiting + [(streams, one) for one in self.streams.chosen if not streams.has_ended(one)]

    @property
    def accounts(self) -> tuple[Account, ...]:
        """What they were told."""
        return self.socket.account, self.streams.account
