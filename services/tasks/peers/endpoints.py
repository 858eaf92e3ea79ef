"""HTTP to webhooks: one POST on a connection of its own, to an address that was judged, and no further.

No redirect is followed, no proxy and no cookie used, and of the answer only its status and ``Retry-After`` count.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import aiohttp
from aiohttp.client_proto import ResponseHandler

from chassis.clock import Clock
from chassis.errors import MeshError
from services.tasks.model.tries import SERVICE_UNAVAILABLE, TOO_MANY_REQUESTS, is_success, parse_retry_after
from services.tasks.model.webhooks import Answer
from services.tasks.peers.addresses import Guard, Resolver

# The end of an answer is waited for a little, as a courtesy to servers that log it when nobody does.
_ENDING_SECONDS = 0.5
_MOST_ANSWER_BYTES = 4096
_LOOK_UP_SECONDS = 5.0
# Headers and that little. Interim answers (1xx) without end would keep this process from all others' calls.
_MOST_RECEIVED_BYTES = 64 * 1024
# The first that fits.
_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "It did not answer in time"),
    (aiohttp.ClientConnectorDNSError, "Its name leads to no address"),
    (aiohttp.ClientSSLError, "Its TLS certificate or handshake was not accepted"),
    (aiohttp.ClientConnectorError, "No connection could be made"),
    (aiohttp.ClientResponseError, "It did not answer in HTTP"),
)
_HEADERS = {"content-type": "application/json", "user-agent": "AgentMesh-Webhooks/1"}


class Endpoints:
    """`ports.Post` over aiohttp."""

    def __init__(self, session: aiohttp.ClientSession, guard: Guard, resolver: Resolver, clock: Clock) -> None:
        self._session = session
        self._guard = guard
        self._resolver = resolver
        self._clock = clock

    async def check(self, url: str) -> None:
        """See `ports.Post`. A name that cannot be looked up now is judged when it can, at each try."""
        parsed = self._guard.parse(url)
        with suppress(OSError):
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                await self._resolver.resolve(parsed.raw_host or "", parsed.port or 0)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """See `ports.Post`."""
        try:
            parsed = self._guard.parse(url)
            async with self._session.post(
                parsed, data=body, headers={**_HEADERS, **headers}, allow_redirects=False
            ) as response:
                answer = self._answer(response)
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with asyncio.timeout(_ENDING_SECONDS):
                        await response.content.read(_MOST_ANSWER_BYTES)
                return answer
        except MeshError as error:
            return Answer(status=0, error=error.message.removeprefix("url: "))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(status=0, error=_words(error))

    def _answer(self, response: aiohttp.ClientResponse) -> Answer:
        if is_success(response.status):
            return Answer(status=response.status)
        wait = None
        if response.status in {TOO_MANY_REQUESTS, SERVICE_UNAVAILABLE}:
            wait = parse_retry_after(response.headers.get("retry-after", ""), self._clock.now())
        return Answer(
            status=response.status, error=f"It answered with status {response.status}", retry_after_seconds=wait
        )


@asynccontextmanager
async def open_endpoints(
    guard: Guard, resolver: Resolver, clock: Clock, *, timeout_seconds: float, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Endpoints]:
    """Opens the way out.

    Args:
        timeout_seconds: for a try in all: name, connection, request and answer.
        tls: what certificates are believed; the machine's own when None.
    """

    def socket_for(info: aiohttp.AddrInfoType) -> socket.socket:
        # Whatever way an address came here: nothing is connected to that was not judged.
        family, kind, protocol, _, sockaddr = info
        try:
            guard.check(ipaddress.ip_address(str(sockaddr[0])))
        except MeshError as error:
            raise PermissionError(str(error)) from error
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=resolver,
        use_dns_cache=False,
        force_close=True,
        limit=0,
        ssl=tls or ssl.create_default_context(),
        socket_factory=socket_for,
    )
    # There is no public way to say how a connection reads; a test would see it if this were another name.
    factory = partial(_Bounded, loop=asyncio.get_running_loop())
    connector._factory = factory  # type: ignore[assignment]  # noqa: SLF001 - a subclass of what it makes
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            auto_decompress=False,
            trust_env=False,
        ) as session:
            yield Endpoints(session, guard, resolver, clock)
    finally:
        await resolver.close()


class _Bounded(ResponseHandler):
    """Reads no more of an answer than counts: at `_MOST_RECEIVED_BYTES` the connection ends."""

    _left = _MOST_RECEIVED_BYTES

    def data_received(self, data: bytes) -> None:
        if self._left:
            wanted = data[: self._left]
            self._left -= len(wanted)
            super().data_received(wanted)
        if not self._left and self.transport is not None:
            self.transport.abort()


def _words(error: Exception) -> str:
    """One sentence for the owner; the errors' own texts name addresses."""
    for kind, words in _SENTENCES:
        if isinstance(error, kind):
            return words
    return "The connection broke"
