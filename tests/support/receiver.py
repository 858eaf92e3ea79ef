"""A receiver of webhooks, as a stranger would run one: it keeps what it is sent and answers as it is told."""

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

_LOOK_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> dict[str, Any]:
        """The body, parsed."""
        return dict(orjson.loads(self.body))


@dataclass(kw_only=True)
class Receiver:
    """Where it listens, what came, and what is answered next; when nothing is planned, the usual."""

    # A port of 0 becomes a free one, which stays.
    port: int = 0
    # What it is called; it listens at 127.0.0.1.
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    got: list[Got] = field(default_factory=list)
    planned: deque[Answer] = field(default_factory=deque)
    usual: Answer = 204
    headers: dict[str, str] = field(default_factory=dict)
    _runner: web.AppRunner | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/hook"

    async def start(self) -> None:
        """Lives, on the port that it had before."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Dies: connections are cut off, and new ones refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Got(headers=headers, body=await request.read()))
        answer = self.planned.popleft() if self.planned else self.usual
        return web.Response(status=answer, headers=self.headers) if isinstance(answer, int) else await answer(request)

    async def until(self, count: int, wanted: Callable[[Got], bool] = lambda _: True) -> list[Got]:
        """The requests that are wanted, as soon as there are so many. Fails after a minute."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while len(found := [one for one in self.got if wanted(one)]) < count:
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            came = [(one.document["event"], one.event_id) for one in self.got]
            raise AssertionError(f"fewer than {count} wanted requests came; in all: {came}") from None
        return found


@asynccontextmanager
async def receiving(receiver: Receiver | None = None) -> AsyncIterator[Receiver]:
    """That receiver, or one on a free port, while it lives."""
    opened = receiver or Receiver()
    await opened.start()
    try:
        yield opened
    finally:
        await opened.stop()
