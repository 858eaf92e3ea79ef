"""Where instances tell one another of their rules: a Redis stream of one entry, the newest notice.

A stream because one command, XREAD, both waits for the next notice and sees one that came in between; its ids are the
revisions. Not on the connection of the decisions: waiting would hold them up.
"""

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from chassis.errors import Unavailable
from services.ratelimit.ports import Notice
from services.ratelimit.store.cluster_map import each_of

_KEY = "rl:{rules}"
# Longer than the longest wait for a notice.
_TIMEOUT_SECONDS = 2.0
_NOTHING = Notice(revision=0, source="", file=0)

# Appends only after the entry that the caller knows, or to an empty stream when it knows of none.
_POST = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if (newest and newest[1] or '0-0') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[1], ARGV[2], 'source', ARGV[3], 'file', ARGV[4])
return 1
"""

_Entry = tuple[bytes, Mapping[bytes, bytes]]


class RedisBoard:
    """The board over Redis; see the port."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        self._client = client

    async def read(self) -> Notice:
        entries = await _answer(self._client.xrevrange(_KEY, count=1))
        return _notice(entries[0]) if entries else _NOTHING

    async def post(self, notice: Notice, *, after: int) -> bool:
        arguments = (_id(after), _id(notice.revision), notice.source, str(notice.file))
        return bool(await _answer(self._client.eval(_POST, 1, _KEY, *arguments)))

    async def wait(self, *, after: int, timeout_seconds: float) -> None:
        await _answer(self._client.xread({_KEY: _id(after)}, count=1, block=int(timeout_seconds * 1000)))


async def _answer(command: Any) -> Any:
    try:
        return await cast("Awaitable[Any]", command)
    except (RedisError, RedisClusterException, OSError, RuntimeError) as error:
        # The last is uvloop's word for a connection that was reset between being made and being written to.
        raise Unavailable("The rules cannot be changed while Redis is away", private=str(error)) from error


def _id(revision: int) -> str:
    return f"{revision}-0"


def _notice(entry: _Entry) -> Notice:
    entry_id, fields = entry
    try:
        source, file = fields[b"source"].decode(), int(fields[b"file"])
    except (KeyError, ValueError) as error:
        # Somebody else has written there. All instances read it: none may die of it.
        raise Unavailable("The rules cannot be changed: Redis holds no notice of them", private=repr(error)) from error
    return Notice(revision=int(entry_id.split(b"-")[0]), source=source, file=file)


@asynccontextmanager
async def open_board(url: str, *, cluster: bool = False) -> AsyncIterator[RedisBoard]:
    """A board at a Redis URL; never fails because Redis is away. Nothing is sent twice."""
    times: dict[str, Any] = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
    retry = Retry(NoBackoff(), 0)
    client: Redis | RedisCluster
    if cluster:
        first, *others = each_of(url)
        nodes = [ClusterNode(part.hostname or "", part.port or 6379) for part in map(urlsplit, others)]
        client = RedisCluster.from_url(first, startup_nodes=nodes, retry=retry, **times)
    else:
        client = Redis.from_url(url, retry=retry, **times)
    try:
        yield RedisBoard(client)
    finally:
        await client.aclose()
