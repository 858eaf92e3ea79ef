"""The rate limiter's counters twice, for every test that holds both to one behaviour."""

from collections.abc import Iterator

import pytest

from tests.contract.ratelimit.counters import InMemory, InRedis, SettableCounters


@pytest.fixture
def in_redis(redis_url: str) -> Iterator[InRedis]:
    counters = InRedis(redis_url)
    yield counters
    counters.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def counters(request: pytest.FixtureRequest) -> SettableCounters:
    return InMemory() if request.param == "memory" else request.getfixturevalue("in_redis")
