"""The rate limiter's counters in memory, in Redis and on Redis Cluster, all held to one behaviour."""

from collections.abc import Iterator

import pytest

from tests.contract.ratelimit.cluster import InCluster
from tests.contract.ratelimit.counters import InMemory, InRedis, SettableCounters
from tests.support.redis_cluster import RedisCluster


@pytest.fixture
def in_redis(redis_url: str) -> Iterator[InRedis]:
    counters = InRedis(redis_url)
    yield counters
    counters.close()


@pytest.fixture
def in_cluster(redis_cluster: RedisCluster) -> Iterator[InCluster]:
    counters = InCluster(redis_cluster.url)
    yield counters
    counters.close()


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.redis) for name in ("redis", "cluster"))])
def counters(request: pytest.FixtureRequest) -> SettableCounters:
    return InMemory() if request.param == "memory" else request.getfixturevalue(f"in_{request.param}")
