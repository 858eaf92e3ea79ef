"""A receiver of webhooks, as a stranger would run one: it keeps what it is sent and answers as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One try, as it arrived."""

    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The body, parsed."""
        return dict(json.loads(self.body))


@dataclass(slots=True)
class Hooks:
    """Where it listens, what has come, and with which status it answers."""

    port: int
    status: int = 200
    calls: list[Call] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    async def until(self, wanted: Callable[[Call], bool], count: int = 1) -> list[Call]:
        """The calls that are wanted, as soon as there are so many. Fails after a minute."""
        found: list[Call] = []
        try:
            async with asyncio.timeout(60):
                while len(found := [call for call in self.calls if wanted(call)]) < count:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            came = [(call.event["event"], call.event_id) for call in self.calls]
            raise AssertionError(f"{len(found)} of {count} wanted calls came; in all: {came}") from None
        return found

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.calls.append(Call(headers=headers, body=await request.read()))
        return web.Response(status=self.status)


@asynccontextmanager
async def listening(hooks: Hooks) -> AsyncIterator[Hooks]:
    """Receives at the port of `hooks`; a port of 0 becomes a free one."""
    app = web.Application()
    app.router.add_post("/hooks", hooks.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", hooks.port)
    await site.start()
    hooks.port = runner.addresses[0][1]
    try:
        yield hooks
    finally:
        await runner.cleanup()
