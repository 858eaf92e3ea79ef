"""Which node of a cluster keeps which slot: read from its nodes, and found by a counter's key. Knows no counters."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from services.ratelimit.store.connection import Connection

SLOTS = REDIS_CLUSTER_HASH_SLOTS
_TAGS_KEPT = 16384


class Range(NamedTuple):
    """Slots from `first` to `last` and the URL of the node that keeps them."""

    first: int
    last: int
    url: str


@lru_cache(maxsize=_TAGS_KEPT)
def slot_of(key: str) -> int:
    """The slot of a counter's key."""
    return key_slot(key.encode())


def each_of(url: str) -> list[str]:
    """The URL of each node in ``redis://login@host:port,host:port/0``."""
    parts = urlsplit(url)
    login, at, places = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{login}{at}{place}")) for place in places.split(",")]


def tag_in(slots: Sequence[int]) -> str:
    """A hash tag whose slot is among those that are not 0. Raises StopIteration when none is."""
    return next(tag for tag in map(str, range(SLOTS * 100)) if slots[key_slot(tag.encode())])


async def read_map(connection: Connection, url: str, *, timeout_seconds: float) -> list[Range]:
    """What the node at the other end, whose URL that is, knows of its cluster.

    Raises hiredis.ReplyError when it is no node of a cluster, ConnectionError and TimeoutError.
    """
    reply: list[Any] = await connection.call("CLUSTER", "SLOTS", timeout_seconds=timeout_seconds)
    # A node that does not know its own address sends none: it is the one that was asked.
    return [
        Range(first, last, _with_address(url, bytes(keeper[0] or b"").decode(), keeper[1]))
        for first, last, keeper, *_ in reply
    ]


def _with_address(url: str, host: str, port: int) -> str:
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    shown = host or parts.hostname or ""
    return urlunsplit(parts._replace(netloc=f"{login}{at}{f'[{shown}]' if ':' in shown else shown}:{port}"))
