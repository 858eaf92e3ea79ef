"""One HTTP server of a provider, over a long-lived pool of connections. Knows bytes, time limits and failures, and
nothing of what is said.

The client library is aiohttp and not the faster pyreqwest, because a call that pyreqwest 0.15 gives up before the
answer's head has arrived keeps its socket, and the provider's work, until its time limit ends; aiohttp closes it at
once.
"""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from chassis.clock import Clock
from chassis.errors import DeadlineExceeded, Exhausted, Invalid, MeshError, Unavailable
from services.llm.model import unknown_model

_CONNECT_SECONDS = 5.0
# Lists of models are asked for in the background, often of a server that is not there.
_LOOK_SECONDS = 3.0
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MAX_LINE_BYTES = 4 * 1024 * 1024
# aiohttp warns when it is given more than this as bytes.
_MAX_PLAIN_BODY_BYTES = 1024 * 1024
_MAX_QUOTED_CHARACTERS = 500
_ERROR_STATUS = 400
# The end of the body comes with the last event or right behind it. Waiting for it saves the connection; a server that
# keeps it back loses no more than this.
_ENDING_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """How to reach a provider's server.

    Attributes:
        url: the part that all paths share, as in ``https://api.openai.com/v1``.
        headers: sent with every request; they carry the key.
        error_code: what its failures are called.
        timeout_seconds: for an answer in one piece.
        idle_seconds: between two parts of a streamed one.
    """

    provider: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    error_code: str = "PROVIDER_ERROR"
    timeout_seconds: float = 120.0
    idle_seconds: float = 60.0


class Client:
    """Calls one site. All methods raise the errors of `services.llm.ports.Provider`."""

    def __init__(self, session: aiohttp.ClientSession, site: Site, clock: Clock) -> None:
        self._session = session
        self._site = site
        self._clock = clock
        self._headers = CIMultiDict({"content-type": "application/json", **site.headers})
        self._whole = aiohttp.ClientTimeout(total=site.timeout_seconds, sock_connect=_CONNECT_SECONDS)
        self._streamed = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=site.idle_seconds)
        self._look = aiohttp.ClientTimeout(total=_LOOK_SECONDS)

    def locate(self, path: str) -> URL:
        """The address of a path, to be made once."""
        return URL(self._site.url.rstrip("/") + path)

    async def get(self, url: URL) -> Any:
        """The JSON document at `url`."""
        try:
            async with self._session.get(url, headers=self._headers, timeout=self._look) as response:
                return await self._document(response, "")
        except (aiohttp.ClientError, OSError) as error:
            raise self.translate(error) from error

    async def post(self, url: URL, body: bytes, model: str) -> Any:
        """The JSON document that answers `body`."""
        try:
            async with self._session.post(
                url, data=_payload(body), headers=self._headers, timeout=self._whole, allow_redirects=False
            ) as response:
                return await self._document(response, model)
        except (aiohttp.ClientError, OSError) as error:
            raise self.translate(error) from error

    async def lines(self, url: URL, body: bytes, model: str) -> AsyncGenerator[bytes, None]:
        """The lines that answer `body`, as they come; closing it closes the connection."""
        try:
            async with self._session.post(
                url, data=_payload(body), headers=self._headers, timeout=self._streamed, allow_redirects=False
            ) as response:
                if response.status >= _ERROR_STATUS:
                    raise self._refusal(response, await _read(response), model)
                rest = b""
                async for chunk in response.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
                    if len(rest) > _MAX_LINE_BYTES:
                        raise self.failure("a line without an end")
                if rest:
                    yield rest
        except (aiohttp.ClientError, OSError) as error:
            raise self.translate(error) from error

    async def _document(self, response: aiohttp.ClientResponse, model: str) -> Any:
        body = await _read(response)
        if response.status >= _ERROR_STATUS:
            raise self._refusal(response, body, model)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise self.failure(f"no JSON in an answer with status {response.status}") from error

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes, model: str) -> MeshError:
        status, words = response.status, quote(body)
        wait = _retry_after_seconds(response.headers, self._clock)
        if status == 429:  # noqa: PLR2004 - as the statuses below: HTTP's own names for them say no more
            return Exhausted(
                f"{self._site.provider} limits us: {words or 'too many requests'}",
                retry_after_seconds=1.0 if wait is None else wait,
            )
        if status == 408:  # noqa: PLR2004
            return DeadlineExceeded(f"{self._site.provider} gave up waiting", private=words)
        if status == 404 and words and model:  # noqa: PLR2004 - a 404 without words is a wrong address, ours to mend
            return unknown_model(model)
        if status in (400, 409, 413, 415, 422) and words:
            return Invalid(words, details={"provider": self._site.provider})
        # What is left is the provider's trouble or a key of ours that it does not accept: never the caller's fault.
        return self.failure(f"status {status}: {words}", wait)

    def failure(self, private: str, retry_after_seconds: float | None = None) -> Unavailable:
        """The error for a provider that fails. `private` is for the log."""
        return Unavailable(
            f"The provider {self._site.provider} failed",
            code=self._site.error_code,
            details={"provider": self._site.provider},
            private=private,
            retry_after_seconds=retry_after_seconds,
        )

    def translate(self, error: aiohttp.ClientError | OSError) -> MeshError:
        """The error for trouble on the way."""
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(
                f"The provider {self._site.provider} did not answer in time",
                details={"provider": self._site.provider},
                private=repr(error),
            )
        return self.failure(repr(error))


def _payload(body: bytes) -> bytes | io.BytesIO:
    return body if len(body) <= _MAX_PLAIN_BODY_BYTES else io.BytesIO(body)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.content_length is not None:
        if response.content_length > _MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"an answer of {response.content_length} bytes")
        return await response.read()
    parts, size = [], 0
    async for chunk in response.content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > _MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError("an answer without an end")
    return b"".join(parts)


async def reach_end(lines: AsyncIterator[bytes]) -> None:
    """Reads on to the end behind an answer that is whole, for the connection's sake."""
    try:
        async with asyncio.timeout(_ENDING_SECONDS):
            async for _ in lines:
                pass
    except TimeoutError:
        # The answer is whole already; the connection is not worth more time and closes with its iterator.
        return


def quote(body: bytes) -> str:
    """The provider's own words in an error's body; empty when there are none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(document, list) and document:
        document = document[0]
    for name in ("error", "message", "detail"):
        if isinstance(document, dict) and name in document:
            document = document[name]
    words = document if isinstance(document, str) else ""
    return words[:_MAX_QUOTED_CHARACTERS]


def _retry_after_seconds(headers: Mapping[str, str], clock: Clock) -> float | None:
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        date = parsedate_to_datetime(value)
        return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - clock.now()).total_seconds())
    except ValueError:
        # A hint that cannot be read is no hint.
        return None


def open_session(connections: int) -> aiohttp.ClientSession:
    """The pool all sites share; use it as a context manager.

    Args:
        connections: how many may be open at once, over all sites; more requests wait for one.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=30.0),
        # Providers set cookies that mean nothing to us and would cost every request a search.
        cookie_jar=aiohttp.DummyCookieJar(loop=asyncio.get_running_loop()),
        headers={"user-agent": "agentmesh"},
        skip_auto_headers=("accept",),
    )
