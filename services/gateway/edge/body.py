"""Request bodies from strangers: how large they may be, and JSON that is strict and bounded."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import orjson

from chassis.errors import Invalid
from services.gateway.edge.errors import PayloadTooLarge

MOST_DEPTH = 64
# What is no 64-bit integer has at least so many digits. Where all digits are zeros that is a plain search.
_LONG = 19
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
# Strings, so that what is in them is passed over, and numbers that begin with a long row of digits.
_LONG_NUMBER = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*"|(?<![0-9.eE+-])-?[0-9]{%d,}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?' % _LONG
)
_LEAST_INTEGER, _MOST_INTEGER = -(2**63), 2**64 - 1
_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_SECONDS = 5.0
# As all fields of documented bodies are named.
_FIELD = re.compile(r"[a-z][a-z0-9_]*")
# What pydantic calls the branches of a union; the names of all others are no names of fields.
_BRANCHES = frozenset({"str", "int", "float", "bool"})

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


def parse_json(body: bytes) -> Any:
    """The value in `body`.

    Raises:
        Invalid: not JSON (NaN, lone surrogates and bad UTF-8 included), nested deeper than 64, a NUL character in a
            string, which Postgres cannot store, or an integer of more than 64 bits, which the parser would round. Code
            ``INVALID_JSON``.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid("The body is not valid JSON", code="INVALID_JSON", private=str(error)) from None
    # A NUL can only come as the escape \u0000 (the parser refuses raw control characters) and nesting costs a bracket a
    # level: these searches clear most bodies, and they need no walk.
    if b"\\u0000" in body or body.count(b"[") + body.count(b"{") > MOST_DEPTH:
        _inspect(value)
    if b"0" * _LONG in body.translate(_ZEROS):
        _refuse_rounded(body)
    return value


def field_path(location: Sequence[str | int]) -> str:
    """Where in a body an error of pydantic is, dotted, as in ``messages.0.role``; empty for the body itself.

    The branches of unions are left out: pydantic names them after our types, as in ``constrained-str``.
    """
    return ".".join(str(part) for part in location if isinstance(part, int) or _names_field(part))


def _names_field(part: str) -> bool:
    return part not in _BRANCHES and _FIELD.fullmatch(part) is not None


def _inspect(value: Any) -> None:
    """Walks level by level, so that the depth is known and the stack is not used."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        _refuse_nul(level)
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [inner for item in containers for inner in _contents(item)]
    raise Invalid(f"The body is nested deeper than {MOST_DEPTH} levels", code="INVALID_JSON")


def _contents(container: dict[str, Any] | list[Any]) -> list[Any]:
    return container if isinstance(container, list) else [*container, *container.values()]


def _refuse_nul(items: list[Any]) -> None:
    if any(isinstance(item, str) and "\0" in item for item in items):
        raise Invalid("The body holds a NUL character", code="INVALID_JSON")


def _refuse_rounded(body: bytes) -> None:
    for found in _LONG_NUMBER.finditer(body):
        number = found[0]
        if number.removeprefix(b"-").isdigit() and not _LEAST_INTEGER <= int(number) <= _MOST_INTEGER:
            raise Invalid("The body holds an integer of more than 64 bits", code="INVALID_JSON")


def declared_length(headers: dict[bytes, bytes]) -> int | None:
    """The Content-Length, None without one. Raises Invalid when it is no number."""
    value = headers.get(b"content-length")
    if value is None:
        return None
    if not value.isdigit():
        raise Invalid("Content-Length is not a number")
    return int(value)


class BoundedReceive:
    """Counts a body of unannounced length as it comes in."""

    __slots__ = ("_left", "_limit_bytes", "_receive")

    def __init__(self, receive: Receive, limit_bytes: int) -> None:
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._left = limit_bytes

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise too_large(self._limit_bytes)
        return message


async def discard(receive: Receive) -> None:
    """Reads the rest of a refused body, within bounds: over unread bytes the connection would be reset, and with it the
    answer lost that says why. Raises nothing.
    """
    left = _DISCARD_BYTES
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def too_large(limit_bytes: int) -> PayloadTooLarge:
    """The refusal of a body that is too large."""
    return PayloadTooLarge(f"Request body larger than {limit_bytes} bytes", details={"limit_bytes": str(limit_bytes)})
