"""The store on a real Redis Cluster: one call a node, slots that move, nodes that die."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import islice
from pathlib import Path

import pytest
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from services.ratelimit.model.decisions import Decision
from services.ratelimit.model.limits import Subject
from services.ratelimit.store import ClusterStore
from services.ratelimit.store.cluster_map import slot_of
from tests.integration.ratelimit.conftest import Deciding
from tests.integration.ratelimit.test_rules import until
from tests.integration.ratelimit.test_service import Start
from tests.support.redis_cluster import Node, RedisCluster

pytestmark = pytest.mark.redis

RULES = """\
version: 1
classes:
  one.default:
    - { name: one_short, algorithm: sliding_window, per: user, limit: 20, window: 1h }
    - { name: one_long, algorithm: fixed_window, per: user, limit: 1000, window: 365d }
  two.default:
    - { name: two_user, algorithm: fixed_window, per: user, limit: 1000, window: 365d }
    - { name: two_ip, algorithm: sliding_window, per: ip, limit: 30, window: 1h }
"""


@pytest.fixture
async def deciding(redis_cluster: RedisCluster, tmp_path: Path) -> AsyncIterator[Deciding]:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES, encoding="utf-8")
    found = Deciding(redis_cluster.url, open_store=ClusterStore, rules=rules)
    await found.until(ready=True)
    yield found
    await found.close()


def users(cluster: RedisCluster, node: Node, count: int) -> list[str]:
    """Names whose counters the node keeps."""
    found = (f"user{number}" for number in range(100_000))
    return list(islice((name for name in found if cluster.keeper(slot_of(key_of(name))) is node), count))


def key_of(user: str) -> str:
    return f"rl:{{{len(user)}:{user}}}"


async def decide(deciding: Deciding, *subjects: Subject) -> list[Decision]:
    """Each subject in a call of its own, all at once."""
    return [
        one for found in await asyncio.gather(*(deciding.limiter.decide([one]) for one in subjects)) for one in found
    ]


def calls(node: Node) -> int:
    with node.client() as client:
        stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "eval"))


async def test_a_frame_is_one_call_a_node(deciding: Deciding, redis_cluster: RedisCluster) -> None:
    """Ninety users who wait together, on all nodes: one script call for each node, and nobody is decided without it."""
    before = [calls(node) for node in redis_cluster.nodes]
    found = await decide(deciding, *(Subject("one.x", user=f"user{number}") for number in range(90)))
    assert [calls(node) - was for node, was in zip(redis_cluster.nodes, before, strict=True)] == [1, 1, 1]
    assert all(one.verdict.allowed and not one.degraded for one in found)


async def test_a_forgotten_script_is_invisible(deciding: Deciding, redis_cluster: RedisCluster) -> None:
    """SCRIPT FLUSH on every node: decided by Redis all the same."""
    for node in redis_cluster.nodes:
        node.command_of("SCRIPT", "FLUSH")
    found = await decide(deciding, *(Subject("one.x", user=f"user{number}") for number in range(30)))
    assert not any(one.degraded for one in found)


async def test_what_spans_nodes_is_all_or_nothing(deciding: Deciding, redis_cluster: RedisCluster) -> None:
    """Sixty-four at a time under a rule a node: the wide one has lost exactly what the narrow one admitted."""
    first, second, _ = redis_cluster.nodes
    user, ip = users(redis_cluster, first, 1)[0], users(redis_cluster, second, 1)[0]
    subject = Subject("two.x", user=user, ip=ip)
    found = [one for _ in range(3) for one in await decide(deciding, *[subject] * 64)]
    assert sum(one.verdict.allowed for one in found) == 30
    async with asyncio.timeout(20):
        # What was taken in vain is given back within milliseconds.
        while (await decide(deciding, subject._replace(cost=0)))[0].verdict.levels[::2] != (970, 0):
            await asyncio.sleep(0.01)


async def test_a_moving_slot_loses_and_doubles_nothing(deciding: Deciding, redis_cluster: RedisCluster) -> None:
    """Asked all the while a slot moves, key by key: exactly the limit passes, and Redis decides throughout."""
    source, target, _ = redis_cluster.nodes
    user = users(redis_cluster, source, 1)[0]
    slot, subject = slot_of(key_of(user)), Subject("one.x", user=user)
    steps: list[Callable[[], object]] = [
        lambda: redis_cluster.begin_move(slot, target),
        lambda: redis_cluster.move_keys(slot, target, most=1),
        lambda: redis_cluster.move_keys(slot, target),
        lambda: redis_cluster.end_move(slot, target),
    ]
    found = await decide(deciding, *[subject] * 4)
    for step in steps:
        step()
        found += await decide(deciding, *[subject] * 4)
    found += await decide(deciding, *[subject] * 10)
    assert sum(one.verdict.allowed for one in found) == 20
    assert not any(one.degraded for one in found[:4] + found[-10:])
    redis_cluster.begin_move(slot, source)
    redis_cluster.move_keys(slot, source)
    redis_cluster.end_move(slot, source)


async def test_a_killed_node_takes_only_its_own_along(deciding: Deciding, redis_cluster: RedisCluster) -> None:
    """Its users are decided from memory, the others by Redis; back and empty it is told what passed."""
    victim, other, _ = redis_cluster.nodes
    ours, theirs = users(redis_cluster, victim, 1)[0], users(redis_cluster, other, 1)[0]
    passed = [one.verdict.allowed for one in await decide(deciding, *[Subject("one.x", user=ours)] * 8)]
    victim.kill()
    found = await decide(deciding, *[Subject("one.x", user=ours)] * 6)
    passed += [one.verdict.allowed for one in found]
    assert all(one.degraded for one in found)
    for _ in range(10):
        assert not (await decide(deciding, Subject("one.x", user=theirs)))[0].degraded
    victim.start()
    redis_cluster.wait()
    await deciding.until(ready=True)
    passed += [one.verdict.allowed for one in await decide(deciding, *[Subject("one.x", user=ours)] * 20)]
    assert sum(passed) == 20


def test_the_service_decides_on_a_cluster(start_service: Start, redis_cluster: RedisCluster) -> None:
    """Chosen by a setting; rules that are put in force go over the cluster as well."""
    # Generous, so that a busy machine is not taken for nodes that hang.
    settings = {"REDIS_CLUSTER": "true", "MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS": "2"}
    with start_service(REDIS_URL=redis_cluster.url, **settings).stub() as stub:
        until("decisions with Redis", 30, lambda: stub.GetStatus(pb.GetStatusRequest()).store_connected)
        source = RULES.replace("one.", "three.").replace("name: one", "name: three")
        stub.PutRules(pb.PutRulesRequest(source=source))
        subject = pb.Subject(route_class="three.x", user="anna", ip="1.2.3.4")
        decision = stub.Decide(pb.DecideRequest(subjects=[subject])).decisions[0]
        assert (decision.degraded, [rule.name for rule in decision.rules]) == (False, ["three_short", "three_long"])
