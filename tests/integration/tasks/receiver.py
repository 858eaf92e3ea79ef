"""An endpoint that webhooks are posted to over HTTP or HTTPS, whose every answer a test may make itself."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
from aiohttp import web

Answer: TypeAlias = "int | Callable[[web.Request], Awaitable[web.StreamResponse]]"


@dataclass
class Got:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Receiver:
    """What came, and what is answered next; when nothing is planned, the usual."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    planned: deque[Answer] = field(default_factory=deque)
    usual: Answer = 204
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Got(headers, body))
        answer = self.planned.popleft() if self.planned else self.usual
        return web.Response(status=answer, headers=self.headers) if isinstance(answer, int) else await answer(request)

    async def wait_for(self, count: int, seconds: float = 20.0) -> list[Got]:
        """So many requests have come."""
        await eventually(lambda: len(self.got) >= count, f"{count} requests come", seconds)
        return self.got


async def eventually(holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Waits until it holds."""
    try:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {seconds} s in vain until {what}") from None


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """An endpoint on a free port; with `tls` over HTTPS."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.answer)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    receiver.url = f"{'https' if tls else 'http'}://localhost:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()
