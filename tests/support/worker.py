"""A worker from outside, as a stranger would write one over its socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.client import Client


class OutsideWorker:
    """One socket to ``/worker/{id}``. `closed` is the close code once it is."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.registered: dict[str, Any] = {}

    async def say(self, kind: str = "", **fields: Any) -> None:
        await self.socket.send_json({"type": kind, **fields} if kind else fields)

    async def hear(self, kind: str, seconds: float = 60) -> dict[str, Any]:
        """The next frame of that type; AssertionError with the reason when the socket is closed before it."""
        async with asyncio.timeout(seconds):
            while True:
                message = await self.socket.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, f"closed before {kind}: {message!r}"
                frame: dict[str, Any] = json.loads(message.data)
                if frame["type"] == kind:
                    return frame

    async def until_closed(self, seconds: float = 60) -> int:
        """The close code; frames before it are passed over."""
        async with asyncio.timeout(seconds):
            while (await self.socket.receive()).type is aiohttp.WSMsgType.TEXT:
                continue
        return self.socket.close_code or 0

    async def register(self, *kinds: str, **fields: Any) -> dict[str, Any]:
        await self.say("register", kinds=list(kinds), **fields)
        self.registered = await self.hear("registered")
        return self.registered

    async def work(self, seconds: float = 60) -> dict[str, Any]:
        """The next task, accepted."""
        assigned = await self.hear("assign", seconds)
        await self.say("accept", task_id=assigned["task_id"], attempt=assigned["attempt"])
        return assigned

    async def answer(self, assigned: dict[str, Any], result: Any) -> None:
        """Sends a result and waits until it is stored."""
        await self.say("result", task_id=assigned["task_id"], attempt=assigned["attempt"], result=result)
        heard = await self.hear("acknowledged")
        assert heard["task_id"] == assigned["task_id"]

    def drop(self) -> None:
        """The connection breaks without a word."""
        transport = self.socket._response.connection.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()


@asynccontextmanager
async def outside_worker(who: Client, worker_id: str, query: str = "") -> AsyncIterator[OutsideWorker]:
    """A connected worker that has not said anything yet."""
    url = f"{who.url}/worker/{worker_id}?{query}"
    headers = {"Authorization": f"Bearer {who.token}"}
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as socket:
        yield OutsideWorker(socket)
