"""One HTTP server of a provider: requests from prepared heads, answers as JSON, failures as errors of the mesh. Knows
nothing of what is said.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from chassis.clock import Clock
from chassis.errors import DeadlineExceeded, Exhausted, Invalid, MeshError, Unavailable
from services.llm.model import unknown_model
from services.llm.providers.http1 import Incoming, Malformed
from services.llm.providers.pool import Pool

# Lists of models are asked for in the background, often of a server that is not there.
_LOOK_SECONDS = 3.0
_MAX_LINE_BYTES = 4 * 1024 * 1024
_MAX_REFUSAL_BYTES = 64 * 1024
_MAX_QUOTED_CHARACTERS = 500
_ERROR_STATUS = 400
# The end of the body comes with the last event or right behind it. Waiting for it saves the connection; a server that
# keeps it back loses no more than this.
_ENDING_SECONDS = 0.05

# What goes wrong on the way; timeouts and TLS failures are OSErrors, an impossible host name is a UnicodeError.
_TROUBLE = (Malformed, OSError, UnicodeError)


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

    def __init__(self, pool: Pool, site: Site, clock: Clock) -> None:
        self._pool = pool
        self._site = site
        self._clock = clock
        self._parts = urlsplit(site.url)
        headers = {
            "host": self._parts.netloc.rpartition("@")[2],
            "user-agent": "agentmesh",
            "accept-encoding": "identity",
            "content-type": "application/json",
            **site.headers,
        }
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if self._headers.count("\n") != len(headers) or not self._headers.isascii():
            raise ValueError(f"a header for {site.provider} is not one line of plain characters")

    def locate(self, method: str, path: str) -> bytes:
        """The head of every request to a path, up to the length of its body; to be made once."""
        query = f"?{self._parts.query}" if self._parts.query else ""
        target = f"{self._parts.path.rstrip('/')}{path}{query}"
        return f"{method} {target} HTTP/1.1\r\n{self._headers}content-length: ".encode()

    async def get(self, head: bytes) -> Any:
        """The JSON document there."""
        return await self._document(_request(head, b""), "", _LOOK_SECONDS)

    async def post(self, head: bytes, body: bytes, model: str) -> Any:
        """The JSON document that answers `body`."""
        return await self._document(_request(head, body), model, self._site.timeout_seconds)

    async def _document(self, request: bytes, model: str, timeout_seconds: float) -> Any:
        try:
            answer, body = await self._pool.exchange(request, timeout_seconds)
        except _TROUBLE as error:
            raise self._translate(error) from error
        if answer.status >= _ERROR_STATUS:
            raise self._refusal(answer, body, model)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise self.failure(f"no JSON in an answer with status {answer.status}") from error

    async def lines(self, head: bytes, body: bytes, model: str) -> AsyncGenerator[bytes, None]:
        """The lines that answer `body`, as they come; closing it closes the connection."""
        rest = b""
        try:
            async with aclosing(self._pool.stream(_request(head, body), self._site.idle_seconds)) as parts:
                async for answer, data in parts:
                    if answer.status >= _ERROR_STATUS:
                        rest += data
                        if answer.done or len(rest) > _MAX_REFUSAL_BYTES:
                            raise self._refusal(answer, rest, model)
                        continue
                    *whole, rest = (rest + data).split(b"\n")
                    for line in whole:
                        yield line
                    if len(rest) > _MAX_LINE_BYTES:
                        raise self.failure("a line without an end")
        except _TROUBLE as error:
            raise self._translate(error) from error
        if rest:
            yield rest

    def _refusal(self, answer: Incoming, body: bytes, model: str) -> MeshError:
        status, words = answer.status, quote(body)
        wait = _retry_after_seconds(answer, self._clock)
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
        """The error for trouble on the way."""
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(
                f"The provider {self._site.provider} did not answer in time",
                details={"provider": self._site.provider},
                private=repr(error),
            )
        return self.failure(repr(error))


def _request(head: bytes, body: bytes) -> bytes:
    return b"%b%d\r\n\r\n%b" % (head, len(body), body)


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


def _retry_after_seconds(answer: Incoming, clock: Clock) -> float | None:
    try:
        if milliseconds := answer.header(b"retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = answer.header(b"retry-after")
        if not value:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        date = parsedate_to_datetime(value)
        return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - clock.now()).total_seconds())
    except ValueError:
        # A hint that cannot be read is no hint.
        return None
