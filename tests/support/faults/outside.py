"""A worker of another language's kind: it knows the mesh only by its socket, and leaves marks as the others do.

``python -m tests.support.faults.outside``; MARKS names the file, the gateway and the login come from the environment.
"""

import asyncio
import json
import os
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from chassis.logging import get_logger
from tests.support.client import Client, client
from tests.support.faults.marks import Marks

log = get_logger(__name__)

KINDS = ("outside.quick", "outside.slow", "outside.flaky", "outside.wrong")
_SLOTS = 16
_PAUSE_SECONDS = 0.2
# A gateway that swallows what it is sent is left after that, as any client with a bound would.
_CONNECT_SECONDS = 5.0
# The codes that say that the worker itself is at fault; nothing that this one does is.
_BLAMED = frozenset({1009, 4400, 4408})

Key = tuple[str, int]


class Outside:
    """One process: what it does now, and what it has said and not heard the answer of."""

    def __init__(self, who: Client, marks: Marks, name: str, login: tuple[str, str]) -> None:
        self._who = who
        self._marks = marks
        self._name = name
        self._login = login
        self._session_id = ""
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        # What is under way, and what is set when it shall stop.
        self._running: dict[Key, asyncio.Event] = {}
        self._unheard: dict[Key, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """For ever: connects, works, and connects again."""
        while True:
            try:
                await self._connect()
            except (aiohttp.ClientError, TimeoutError, OSError, AssertionError) as error:
                log.info("No connection", worker=self._name, error=repr(error))
                if isinstance(error, aiohttp.WSServerHandshakeError) and error.status == HTTPStatus.UNAUTHORIZED:
                    self._who.token = ""
            self._socket = None
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _connect(self) -> None:
        async with asyncio.timeout(_CONNECT_SECONDS):
            if not self._who.token:
                await self._who.login(*self._login)
            socket = await self._who.connect(f"/worker/{self._name}", heartbeat_seconds=4.0)
        async with socket:
            kinds = [{"kind": kind, "max_attempts": 10, "timeout_seconds": 60} for kind in KINDS]
            await socket.send_json(
                {"type": "register", "kinds": kinds, "slots": _SLOTS, "session_id": self._session_id}
            )
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._hear(socket, json.loads(message.data))
        log.info("The connection has ended", worker=self._name, code=socket.close_code)
        if socket.close_code in _BLAMED:
            self._marks.complain(f"{self._name} was blamed: {socket.close_code}")

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "registered":
                self._socket = socket
                await self._registered(frame)
            case "assign":
                await self._assigned(frame)
            case "acknowledged":
                self._unheard.pop(_key(frame), None)
            case "cancel":
                if _key(frame) in self._running:
                    self._running[_key(frame)].set()
            case "revoke":
                self._forget(_key(frame))
            case "lease_lost":
                for lost in frame["attempts"]:
                    self._forget(_key(lost))
            case "error":
                self._marks.complain(f"{self._name} was told {frame['error']}")

    async def _registered(self, frame: dict[str, Any]) -> None:
        self._session_id = frame["session_id"]
        held = {_key(one) for one in frame["held"]}
        known = set(self._running) | set(self._unheard)
        if not frame["resumed"]:
            for key in known:
                self._forget(key)
            return
        for key in held - known:
            # It was assigned over a connection that broke before the word arrived.
            await self._say({"type": "reject", "task_id": key[0], "attempt": key[1]})
        for outcome in list(self._unheard.values()):
            await self._say(outcome)

    async def _assigned(self, frame: dict[str, Any]) -> None:
        key = _key(frame)
        await self._say({"type": "accept", "task_id": key[0], "attempt": key[1]})
        self._running[key] = stop = asyncio.Event()
        task = asyncio.create_task(self._work(key, frame["task_type"], frame["data"], stop))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, key: Key, kind: str, payload: dict[str, Any], stop: asyncio.Event) -> None:
        task_id, attempt = key
        self._marks.begun(task_id, attempt, self._name)
        with suppress(TimeoutError):
            async with asyncio.timeout(payload.get("seconds", 0)):
                await stop.wait()
        if self._running.get(key) is not stop:
            return
        outcome: dict[str, Any] = {"type": "fail", "task_id": task_id, "attempt": attempt}
        if stop.is_set():
            outcome["type"] = "cancelled"
        elif kind == "outside.wrong":
            outcome["retryable"] = False
        elif attempt <= payload.get("failures", 0):
            outcome["retry_after_seconds"] = 0.2
        else:
            self._marks.done(task_id, attempt)
            outcome |= {"type": "result", "result": {"attempt": attempt}}
        del self._running[key]
        self._unheard[key] = outcome
        await self._say(outcome)

    def _forget(self, key: Key) -> None:
        """It is somebody else's; nothing more is said of it."""
        self._unheard.pop(key, None)
        if key in self._running:
            self._running.pop(key).set()

    async def _say(self, frame: dict[str, Any]) -> None:
        if self._socket is not None:
            # What is lost with a connection is said again over the next one.
            with suppress(ConnectionError, aiohttp.ClientError):
                await self._socket.send_json(frame)


def _key(frame: dict[str, Any]) -> Key:
    return frame["task_id"], frame["attempt"]


async def main() -> None:
    """Runs the worker that the environment describes."""
    wanted = os.environ
    async with client(wanted["GATEWAY_URL"]) as who:
        login = wanted["ADMIN_USERNAME"], wanted["ADMIN_PASSWORD"]
        await Outside(who, Marks(Path(wanted["MARKS"])), wanted["MESH_INSTANCE"], login).run()


if __name__ == "__main__":
    asyncio.run(main())
