"""The store on a real Redis: batching, and every way in which Redis can go away and come back."""

import asyncio

import pytest
import redis

from deploy.local.stores.redis import Redis
from services.ratelimit.model.limits import Subject
from services.ratelimit.ports import InDoubt
from tests.integration.ratelimit.conftest import Deciding

pytestmark = pytest.mark.redis

CHAT = Subject("v1.chat", user="anna")  # 10 a minute
MANY = Subject("v1.cache", user="anna")  # 1000 a minute
FRAME = 130  # so many leave at once


async def admitted(deciding: Deciding, tries: int, subject: Subject = CHAT) -> int:
    found = [await deciding.limiter.decide([subject]) for _ in range(tries)]
    return sum(one.verdict.allowed for decisions in found for one in decisions)


def script_calls(client: redis.Redis) -> int:
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "eval"))


async def test_what_waits_together_is_one_script_call(deciding: Deciding, redis_url: str) -> None:
    """Forty calls of several rules each at once: one script call, and all or nothing between them."""
    with redis.Redis.from_url(redis_url) as client:
        before = script_calls(client)
        subjects = [Subject("cwmai.general", user="anna")]
        found = await asyncio.gather(*(deciding.limiter.decide(subjects) for _ in range(40)))
        assert script_calls(client) - before == 1
    assert sum(one.verdict.allowed for decisions in found for one in decisions) == 10
    left = {one.verdict.levels[2] for decisions in found for one in decisions}
    assert min(left) == 990


async def test_a_denied_request_changes_no_counter_under_concurrency(deciding: Deciding) -> None:
    """64 at a time, several rules each: the wide limit has lost exactly what the narrow one admitted."""
    subjects = [Subject("cwmai.ai", user="anna")]
    for _ in range(4):
        await asyncio.gather(*(deciding.limiter.decide(subjects) for _ in range(64)))
    checked = await deciding.limiter.decide([Subject("cwmai.ai", user="anna", cost=0)])
    assert checked[0].verdict.levels[::2] == (0, 90)


async def test_a_forgotten_script_is_invisible(deciding: Deciding, redis_url: str) -> None:
    """SCRIPT FLUSH between two decisions: the second is decided by Redis all the same."""
    assert await admitted(deciding, 4) == 4
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    found = await deciding.limiter.decide([CHAT])
    assert (found[0].degraded, found[0].verdict.levels[0]) == (False, 5)


async def test_keys_expire(deciding: Deciding, redis_url: str) -> None:
    """Everything in Redis has a time to live."""
    await deciding.limiter.decide([Subject("cwmai.general", user="anna"), CHAT])
    with redis.Redis.from_url(redis_url) as client:
        assert {key for key in client.scan_iter() if client.pttl(key) <= 0} == set()


async def test_a_killed_redis_grants_nothing_twice(deciding: Deciding, redis_server: Redis) -> None:
    """Six with Redis, four without, none after it is back empty: ten in all, and never an error."""
    assert await admitted(deciding, 6) == 6
    redis_server.kill()
    assert await admitted(deciding, 8) == 4
    assert (await deciding.limiter.decide([CHAT]))[0].degraded
    redis_server.start()
    await deciding.until(ready=True)
    found = await deciding.limiter.decide([CHAT])
    assert (found[0].degraded, found[0].verdict.allowed) == (False, False)


async def test_a_restarted_redis_counts_nothing_twice(deciding: Deciding, redis_server: Redis) -> None:
    """Stopped in good order it has saved what it knew: three before, two without it, five still to go."""
    assert await admitted(deciding, 3) == 3
    redis_server.stop()
    assert await admitted(deciding, 2) == 2
    redis_server.start()
    await deciding.until(ready=True)
    assert await admitted(deciding, 8) == 5


async def test_a_hanging_redis_costs_one_deadline(hurried: Deciding, redis_server: Redis) -> None:
    """A frozen Redis: one decision waits, those after it do not ask, and nothing counts twice when it is back."""
    assert await admitted(hurried, 2) == 2
    redis_server.pause()
    assert await admitted(hurried, 1) == 1
    await hurried.until(ready=False)
    assert await admitted(hurried, 2) == 2
    redis_server.resume()
    await hurried.until(ready=True)
    assert await admitted(hurried, 8) == 5


@pytest.mark.usefixtures("kept_connection")
async def test_who_was_not_asked_yet_waits_for_a_redis_that_stumbles(redis_url: str, redis_server: Redis) -> None:
    """What Redis was asked goes on without it; what came after that is still decided there."""
    deciding = Deciding(redis_url, deadline_seconds=1.0)
    await deciding.until(ready=True)
    redis_server.pause()
    asked = deciding.store.decide([deciding.limiter.book.ask(MANY)] * FRAME)
    waiting = deciding.store.decide([deciding.limiter.book.ask(MANY)])
    with pytest.raises(InDoubt):
        await asked
    redis_server.resume()
    answer = await waiting
    assert (answer.verdicts[0].levels[0], deciding.store.ready) == (1000 - FRAME - 1, True)
    await deciding.close()


async def test_a_long_hang_is_survived_too(deciding: Deciding, redis_server: Redis) -> None:
    """Longer than a silent connection is kept: a new one settles the debts."""
    redis_server.pause()
    assert await admitted(deciding, 4) == 4
    await asyncio.sleep(1.5)
    redis_server.resume()
    await deciding.until(ready=True)
    assert await admitted(deciding, 8) <= 6


async def test_lost_counters_are_noticed_and_told(deciding: Deciding, redis_server: Redis) -> None:
    """FLUSHALL under a connected instance: the next ping notices, and what it knows is there again."""
    assert await admitted(deciding, 7) == 7
    redis_server.flush()
    await deciding.store.ping()
    await deciding.until(ready=True)
    assert await admitted(deciding, 5) == 3


async def test_two_instances_share_the_counters(deciding: Deciding, redis_url: str) -> None:
    """What one admits the other sees; together never more than the limit."""
    other = Deciding(redis_url, instances=2)
    await other.until(ready=True)
    found = await asyncio.gather(*(admitted(one, 10) for one in (deciding, other)))
    assert sum(found) == 10
    await other.close()


async def test_a_large_call_is_several_script_calls(deciding: Deciding, redis_url: str) -> None:
    """A thousand subjects: no script call that keeps Redis from everybody else for long, and each decided once."""
    with redis.Redis.from_url(redis_url) as client:
        before = script_calls(client)
        found = await deciding.limiter.decide([Subject("v1.cache", user="anna")] * 1000)
        assert script_calls(client) - before == 4
    assert [one.verdict.levels[0] for one in found] == list(range(999, -1, -1))
    assert not any(one.degraded for one in found)
