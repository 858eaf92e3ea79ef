"""One HTTP server of a provider, over the pool of connections that all share. Knows bytes, time limits and failures,
and nothing of what is said.
"""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from chassis.clock import Clock
from chassis.errors import DeadlineExceeded, Exhausted, Invalid, MeshError, Unavailable
from services.llm.model import unknown_model
from services.llm.providers.connections import find_proxy

_CONNECT_SECONDS = 5.0
# Lists of models are asked for in the background, often of a server that is not there.
_LOOK_SECONDS = 3.0
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MAX_LINE_BYTES = 4 * 1024 * 1024
_MAX_REFUSAL_BYTES = 64 * 1024
# aiohttp warns when it is given more than this as bytes.
_MAX_PLAIN_BODY_BYTES = 1024 * 1024
_MAX_QUOTED_CHARACTERS = 500
_ERROR_STATUS = 400
# The end of the body comes with the last event or right behind it. Waiting for it saves the connection; a server that
# keeps it back loses no more than this.
_ENDING_SECONDS = 0.05

# What goes wrong on the way; an impossible host name is a UnicodeError.
_TROUBLE = (aiohttp.ClientError, OSError, UnicodeError)


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
        self._url = URL(site.url)
        if not all(value.isascii() and value.isprintable() for value in site.headers.values()):
            raise ValueError(f"a header for {site.provider} is not one line of plain characters")
        if self._url.user is not None and "authorization" in site.headers:
            raise ValueError(f"{site.provider} has a key and a user in its URL; it can take only one of them")
        self._headers = CIMultiDict(site.headers)
        self._proxy = find_proxy(self._url)
        self._whole = aiohttp.ClientTimeout(total=site.timeout_seconds, sock_connect=_CONNECT_SECONDS)
        self._streamed = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=site.idle_seconds)
        self._look = aiohttp.ClientTimeout(total=_LOOK_SECONDS)

    def locate(self, path: str) -> URL:
        """The address of a path, to be made once."""
        return self._url.with_path(self._url.raw_path.rstrip("/") + path, encoded=True, keep_query=True)

    async def get(self, url: URL) -> Any:
        """The JSON document there."""
        try:
            async with self._ask("GET", url, None, self._look) as response:
                return await self._document(response, "")
        except _TROUBLE as error:
            raise self._translate(error) from None

    async def post(self, url: URL, body: bytes, model: str) -> Any:
        """The JSON document that answers `body`."""
        try:
            async with self._ask("POST", url, body, self._whole) as response:
                return await self._document(response, model)
        except _TROUBLE as error:
            raise self._translate(error) from None

    async def lines(self, url: URL, body: bytes, model: str) -> AsyncGenerator[bytes, None]:
        """The lines that answer `body`, as they come; closing it closes the connection."""
        rest = b""
        try:
            async with self._ask("POST", url, body, self._streamed) as response:
                if response.status >= _ERROR_STATUS:
                    raise self._refusal(response, await _words(response), model)
                async for part in response.content.iter_any():
                    *whole, rest = (rest + part).split(b"\n")
                    for line in whole:
                        yield line
                    if len(rest) > _MAX_LINE_BYTES:
                        raise self.failure("a line without an end")
        except _TROUBLE as error:
            raise self._translate(error) from None
        if rest:
            yield rest

    def _ask(
        self, method: str, url: URL, body: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        data = io.BytesIO(body) if body is not None and len(body) > _MAX_PLAIN_BODY_BYTES else body
        # A redirect would carry the key and the conversation to a place that nobody chose.
        return self._session.request(
            method, url, data=data, headers=self._headers, timeout=timeout, proxy=self._proxy, allow_redirects=False
        )

    async def _document(self, response: aiohttp.ClientResponse, model: str) -> Any:
        if response.status >= _ERROR_STATUS:
            raise self._refusal(response, await _words(response), model)
        body = await _read(response)
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

    def _translate(self, error: Exception) -> MeshError:
        """The error for trouble on the way, to be raised from None: aiohttp's own texts show keys and passwords."""
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(
                f"The provider {self._site.provider} did not answer in time",
                details={"provider": self._site.provider},
                private=_describe(error),
            )
        return self.failure(_describe(error))


def _describe(error: Exception) -> str:
    said = f"{error.status} {error.message}" if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return f"{type(error).__name__}: {said}"


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, also of a server that has more to say than anyone can keep: then ClientPayloadError."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError("an answer without an end")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _words(response: aiohttp.ClientResponse) -> bytes:
    """The body of a refusal, or as much of it as anyone will read."""
    body = b""
    async for part in response.content.iter_any():
        body += part
        if len(body) > _MAX_REFUSAL_BYTES:
            break
    return body


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


def _retry_after_seconds(headers: CIMultiDictProxy[str], clock: Clock) -> float | None:
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after", "").strip()
        if not value:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        date = parsedate_to_datetime(value)
        return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - clock.now()).total_seconds())
    except ValueError:
        # A hint that cannot be read is no hint.
        return None
