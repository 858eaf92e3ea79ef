"""Envoy's descriptors on a real Redis Cluster: counted apart all over it, or taken together on one node."""

from pathlib import Path

import pytest
from envoy.service.ratelimit.v3 import rls_pb2 as pb

from services.ratelimit.store import ClusterStore
from tests.integration.ratelimit.conftest import Deciding
from tests.integration.ratelimit.envoy import OK, OVER, limits_over, request, write
from tests.support.redis_cluster import RedisCluster

LIMITS = """\
domain: shop
descriptors:
  - { key: five, rate_limit: { unit: year, requests_per_unit: 5 } }
  - { key: two, rate_limit: { unit: year, requests_per_unit: 2 } }
"""


@pytest.mark.redis
@pytest.mark.parametrize(("all_or_nothing", "left"), [(False, [4, 3, 2, 1]), (True, [4, 3, 3, 3])])
async def test_descriptors_of_one_request(
    redis_cluster: RedisCluster, tmp_path: Path, all_or_nothing: bool, left: list[int]
) -> None:
    """Whatever nodes keep them: as on one Redis, in both manners."""
    write(tmp_path, LIMITS)
    deciding = Deciding(redis_cluster.url, open_store=ClusterStore)
    await deciding.until(ready=True)
    limits = limits_over(deciding, tmp_path, all_or_nothing=all_or_nothing)
    for who in ("anna", "ben", "carla", "dora"):
        raw = request({"five": who}, {"two": who}).SerializeToString()
        answers = [pb.RateLimitResponse.FromString(await limits.answer(raw)) for _ in range(4)]
        assert [one.overall_code for one in answers] == [OK, OK, OVER, OVER]
        assert [one.statuses[0].limit_remaining for one in answers] == left
    assert deciding.limiter.tally.degraded < deciding.limiter.tally.decisions
    await deciding.close()
