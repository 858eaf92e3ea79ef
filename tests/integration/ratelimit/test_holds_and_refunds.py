"""Holds and refunds on a real Redis that goes away and comes back; and what a denied request leaves behind there."""

import asyncio

import pytest
import redis

from deploy.local.stores.redis import Redis
from services.ratelimit.model.decisions import Decision
from services.ratelimit.model.errands import Action, Errand, hold_of
from services.ratelimit.model.limits import Algorithm, Ask, Limit, limit_of
from tests.integration.ratelimit.conftest import Deciding

pytestmark = pytest.mark.redis

MINUTE = 60_000_000


def places(count: int = 2) -> Limit:
    return limit_of(rule="places", algorithm=Algorithm.CONCURRENCY, per=("user",), limit=count)


def counted(algorithm: Algorithm = Algorithm.SLIDING_WINDOW, count: int = 10) -> Limit:
    return limit_of(rule=algorithm, algorithm=algorithm, per=("user",), limit=count, window_us=MINUTE)


def hold(name: str, *limits: Limit, action: Action = Action.TAKE) -> Ask:
    found = limits or (places(),)
    return Ask(tuple(f"rl:{limit.rule}" for limit in found), found, 1, Errand(action, hold_of(name)))


def take(cost: int, *limits: Limit) -> Ask:
    found = limits or (counted(),)
    return Ask(tuple(f"rl:{limit.rule}" for limit in found), found, cost)


def refund(amount: int) -> Ask:
    return take(amount)._replace(errand=Errand(Action.REFUND))


async def decide(deciding: Deciding, *asks: Ask) -> list[Decision]:
    return await deciding.limiter.decide_asks(asks, 0)


async def allowed(deciding: Deciding, *asks: Ask) -> list[bool]:
    return [one.verdict.allowed for one in await decide(deciding, *asks)]


async def remaining(deciding: Deciding) -> int:
    found = await decide(deciding, take(0))
    assert not found[0].degraded
    return found[0].verdict.levels[0]


def states(url: str) -> dict[bytes, bytes]:
    with redis.Redis.from_url(url) as client:
        counters = [key for key in client.keys("rl:*") if not key.startswith(b"rl:calls:")]
        return {key: client.dump(key) for key in counters}


async def test_denied_requests_change_nothing_64_at_a_time(deciding: Deciding, redis_url: str) -> None:
    """Five rules of every kind, one of them full: whichever it is, all states stay as they were to the byte."""
    kinds = [one for one in Algorithm if one is not Algorithm.CONCURRENCY]
    limits = (*(counted(one, 1000) for one in kinds), places(1000))
    narrow = limit_of(rule="narrow", algorithm=Algorithm.SLIDING_WINDOW, per=(), limit=1, window_us=MINUTE)
    for position in range(len(limits) + 1):
        found = (*limits[:position], narrow, *limits[position:])
        await decide(deciding, hold(f"first {position}", *found))
        before = states(redis_url)
        asks = [hold(f"{position} {number}", *found) for number in range(64)]
        assert await asyncio.gather(*(allowed(deciding, ask) for ask in asks)) == [[False]] * 64
        assert states(redis_url) == before
    assert len(before) == 5


async def test_what_is_held_is_held_again_in_a_redis_that_lost_it(deciding: Deciding, redis_server: Redis) -> None:
    """Two held before, Redis is killed: full without it, and full in the empty one that comes back."""
    assert await allowed(deciding, hold("a"), hold("b"), hold("c")) == [True, True, False]
    redis_server.kill()
    assert await allowed(deciding, hold("d")) == [False]
    redis_server.start()
    await deciding.until(ready=True)
    assert await allowed(deciding, hold("d"), hold("a", action=Action.RENEW)) == [False, True]
    assert await allowed(deciding, hold("b", action=Action.RELEASE), hold("d")) == [True, True]


async def test_what_is_released_without_redis_is_free_in_it(hurried: Deciding, redis_server: Redis) -> None:
    """A release that a frozen Redis did not hear is told to it: the place is free well before its lease ends."""
    assert await allowed(hurried, hold("a"), hold("b")) == [True, True]
    redis_server.pause()
    assert await allowed(hurried, hold("x", action=Action.RENEW)) == [True]
    await hurried.until(ready=False)
    assert await allowed(hurried, hold("a", action=Action.RELEASE)) == [True]
    redis_server.resume()
    await hurried.until(ready=True)
    assert await allowed(hurried, hold("x", action=Action.RELEASE), hold("c"), hold("d")) == [True, True, False]


async def test_a_refund_without_redis_is_given_once(deciding: Deciding, redis_server: Redis) -> None:
    """Of ten taken with Redis four come back without it: four more pass there or later, and never eight."""
    await decide(deciding, take(10))
    redis_server.stop()
    assert await allowed(deciding, take(1)) == [False]
    await decide(deciding, refund(4))
    assert await allowed(deciding, take(3), take(2)) == [True, False]
    redis_server.start()
    await deciding.until(ready=True)
    assert await remaining(deciding) == 1


async def test_a_refund_of_what_redis_never_heard_of(deciding: Deciding, redis_server: Redis) -> None:
    """Taken and given back without it: Redis is told what is left of it."""
    await decide(deciding, take(2))
    redis_server.stop()
    assert await allowed(deciding, take(6)) == [True]
    await decide(deciding, refund(5))
    redis_server.start()
    await deciding.until(ready=True)
    assert await remaining(deciding) == 7


async def test_a_refund_and_then_everything_is_lost(deciding: Deciding, redis_server: Redis) -> None:
    """What is told to an empty Redis is without what came back, and that does not come back again."""
    await decide(deciding, take(9))
    redis_server.kill()
    assert await allowed(deciding, take(2)) == [False]
    await decide(deciding, refund(5))
    redis_server.start()
    await deciding.until(ready=True)
    assert await remaining(deciding) == 6
    assert await remaining(deciding) == 6


async def test_a_refund_in_doubt_is_not_repeated(hurried: Deciding, redis_server: Redis) -> None:
    """A frozen Redis hears it late and gives back once."""
    await decide(hurried, take(10))
    redis_server.pause()
    await decide(hurried, refund(3))
    redis_server.resume()
    await hurried.until(ready=True)
    assert await remaining(hurried) == 3
