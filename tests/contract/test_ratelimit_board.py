"""The board of rules in memory, as other tests use it, in Redis and on Redis Cluster, held to one behaviour."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis

from chassis.errors import Unavailable
from deploy.local.ports import free_port
from services.ratelimit.ports import Board, Notice
from services.ratelimit.store.board import open_board
from tests.unit.ratelimit.board import NOTHING, MemoryBoard

# Longer than any of these waits should ever take.
PATIENCE_SECONDS = 20.0


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.redis) for name in ("redis", "cluster"))])
async def board(request: pytest.FixtureRequest) -> AsyncIterator[Board]:
    if request.param == "memory":
        yield MemoryBoard()
        return
    cluster = request.param == "cluster"
    url = request.getfixturevalue("redis_cluster").url if cluster else request.getfixturevalue("redis_url")
    async with open_board(url, cluster=cluster) as opened:
        yield opened


def notice(revision: int) -> Notice:
    return Notice(revision=revision, source=f"version: 1\n# {revision} ü\n", file=2**63 - 1)


async def test_the_newest_notice_is_read(board: Board) -> None:
    """Nothing before the first; then the newest, as it was put up."""
    assert await board.read() == NOTHING
    assert await board.post(notice(5), after=0)
    assert await board.read() == notice(5)
    assert await board.post(notice(7), after=5)
    assert await board.read() == notice(7)


async def test_a_notice_follows_the_newest_alone(board: Board) -> None:
    """Of those who put up theirs at the same time one succeeds, and whoever knows of none changes nothing."""
    assert await board.post(notice(5), after=0)
    assert not await board.post(notice(6), after=0)
    assert not await board.post(notice(6), after=4)
    results = await asyncio.gather(*(board.post(notice(6 + number), after=5) for number in range(4)))
    assert sorted(results) == [False, False, False, True]
    assert await board.read() == notice(6 + results.index(True))


async def test_a_wait_ends_with_the_next_notice_or_in_time(board: Board) -> None:
    """At once for one that is there already, when it comes for another, and after its time without."""
    await board.post(notice(5), after=0)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await board.wait(after=0, timeout_seconds=1.0)
        waiting = asyncio.ensure_future(board.wait(after=5, timeout_seconds=1.0))
        await board.post(notice(6), after=5)
        await waiting
        await board.wait(after=6, timeout_seconds=0.05)
    assert await board.read() == notice(6)


@pytest.mark.parametrize("cluster", [False, True])
async def test_a_board_that_is_away_says_so(cluster: bool) -> None:
    """As Unavailable, whatever is asked."""
    async with open_board(f"redis://127.0.0.1:{free_port()}/0", cluster=cluster) as board:
        for question in (board.read(), board.post(notice(5), after=0), board.wait(after=0, timeout_seconds=0.1)):
            with pytest.raises(Unavailable):
                await question


@pytest.mark.redis
@pytest.mark.parametrize("command", [("XADD", "rl:{rules}", "5-0", "source", b"\xff"), ("SET", "rl:{rules}", "5")])
async def test_what_is_no_notice_is_not_taken_for_one(redis_url: str, command: tuple[bytes | str, ...]) -> None:
    """Whatever somebody has written there."""
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command(*command)
    async with open_board(redis_url) as board:
        with pytest.raises(Unavailable):
            await board.read()
