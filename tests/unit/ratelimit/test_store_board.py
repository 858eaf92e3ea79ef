"""What a Redis client raises becomes Unavailable, so that nobody who follows the board dies of it."""

from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from chassis.errors import Unavailable
from services.ratelimit.store.board import RedisBoard

if TYPE_CHECKING:
    from redis.asyncio import Redis


class _Broken:
    """A client whose every command fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def xread(self, *_: Any, **__: Any) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("away"),
        RedisClusterException("no nodes"),
        ConnectionResetError(),
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
    ],
)
async def test_trouble_is_unavailable(error: Exception):
    """Errors of the client, of the socket, and of the event loop's transport alike."""
    board = RedisBoard(cast("Redis", _Broken(error)))
    with pytest.raises(Unavailable):
        await board.wait(after=0, timeout_seconds=0.1)
