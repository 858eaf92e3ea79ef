"""A cluster whose master dies and whose replica the cluster itself promotes; and places that are held across nodes."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from deploy.local.state import StateDir
from services.ratelimit.model.decisions import Decision
from services.ratelimit.model.limits import Subject
from services.ratelimit.store import ClusterStore
from services.ratelimit.store.cluster_map import slot_of
from tests.integration.ratelimit.conftest import Deciding
from tests.integration.ratelimit.test_cluster import decide, key_of, users
from tests.support.redis_cluster import Node, RedisCluster

pytestmark = pytest.mark.redis

RULES = """\
version: 1
classes:
  rate.x:
    - { name: rate, algorithm: sliding_window, per: user, limit: 20, window: 1h }
  hold.x:
    - { name: of_user, algorithm: concurrency, per: user, limit: 3, lease: 10s }
    - { name: of_address, algorithm: concurrency, per: ip, limit: 4, lease: 10s }
"""


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(StateDir(tmp_path_factory.mktemp("replicated")), replicated=True)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


async def opened(cluster: RedisCluster, tmp_path: Path) -> AsyncIterator[Deciding]:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES, encoding="utf-8")
    found = Deciding(cluster.url, open_store=ClusterStore, rules=rules)
    await found.until(ready=True)
    yield found
    await found.close()


@pytest.fixture
async def deciding(redis_cluster: RedisCluster, tmp_path: Path) -> AsyncIterator[Deciding]:
    async for found in opened(redis_cluster, tmp_path):
        yield found


@pytest.fixture
async def over_replicas(replicated: RedisCluster, tmp_path: Path) -> AsyncIterator[Deciding]:
    async for found in opened(replicated, tmp_path):
        yield found


def hold(name: str, user: str, address: str = "") -> Subject:
    return Subject("hold.x", user=user, ip=address, hold=name)


async def allowed(deciding: Deciding, *subjects: Subject) -> list[bool]:
    """One after the other."""
    return [(await deciding.limiter.decide([one]))[0].verdict.allowed for one in subjects]


async def until_promoted(cluster: RedisCluster, replica: Node, slot: int) -> None:
    async with asyncio.timeout(30):
        while await asyncio.to_thread(cluster.keeper, slot) is not replica:
            await asyncio.sleep(0.1)


async def asked_on(
    deciding: Deciding, subject: Subject, held: Sequence[Subject], until: "asyncio.Task[None]"
) -> list[Decision]:
    """Asks and renews every now and then until something has come about and Redis decides about the subject again."""
    found: list[Decision] = []
    async with asyncio.timeout(60):
        while not until.done() or found[-1].degraded:
            found += await decide(deciding, subject)
            assert all(await deciding.limiter.renew(held))
            await asyncio.sleep(0.1)
    await until
    return found


async def test_a_replica_takes_over(over_replicas: Deciding, replicated: RedisCluster) -> None:
    """Its master dies with places held and hits counted: nothing passes that had passed, what is released is free."""
    master, replica = replicated.nodes[2], replicated.replicas[2]
    user = users(replicated, master, 1)[0]
    passed = sum(await allowed(over_replicas, *[Subject("rate.x", user=user)] * 8))
    held = [hold(name, user) for name in "abc"]
    assert await allowed(over_replicas, *held, hold("d", user)) == [True, True, True, False]
    await asyncio.to_thread(master.kill)
    assert not any(await allowed(over_replicas, hold("e", user)))
    promoted = asyncio.create_task(until_promoted(replicated, replica, slot_of(key_of(user))))
    found = await asked_on(over_replicas, Subject("rate.x", user=user), held, promoted)
    assert found[0].degraded
    passed += sum(one.verdict.allowed for one in found)
    passed += sum(await allowed(over_replicas, *[Subject("rate.x", user=user)] * 20))
    assert passed == 20
    assert await allowed(over_replicas, hold("f", user)) == [False]
    await over_replicas.limiter.release(held[:1])
    assert await allowed(over_replicas, hold("f", user), hold("g", user)) == [True, False]


async def test_places_across_nodes(deciding: Deciding, redis_cluster: RedisCluster) -> None:
    """Of a user on one node and an address on another: all or nothing, whoever asks at the same time."""
    one, other, _ = redis_cluster.nodes
    anna, bert = users(redis_cluster, one, 2)
    address = users(redis_cluster, other, 1)[0]
    asked = [hold(f"{user}{number}", user, address) for number in range(20) for user in (anna, bert)]
    found = await decide(deciding, *asked)
    held = [subject for subject, decision in zip(asked, found, strict=True) if decision.verdict.allowed]
    assert len(held) <= 4
    # Those that were refused have given back what they had taken elsewhere: as many as the address has may be held.
    for subject in asked:
        if len(held) < 4 and subject not in held and (await allowed(deciding, subject))[0]:
            held.append(subject)
    assert (len(held), max(sum(one.user == user for one in held) for user in (anna, bert))) in {(4, 2), (4, 3)}
    assert not any(await allowed(deciding, hold("x", anna, address), hold("y", bert, address)))
    await deciding.limiter.release(held)
    assert await allowed(deciding, *asked[:8:2]) == [True, True, True, False]


async def test_places_across_nodes_while_one_is_away(deciding: Deciding, redis_cluster: RedisCluster) -> None:
    """What was held before its death counts without it, and counts in it when it is back and empty."""
    one, victim, _ = redis_cluster.nodes
    anna, address = users(redis_cluster, one, 1)[0], users(redis_cluster, victim, 1)[0]
    names = [hold(name, anna, address) for name in "abcde"]
    assert await allowed(deciding, *names[:2]) == [True, True]
    await asyncio.to_thread(victim.kill)
    assert await allowed(deciding, *names[2:]) == [True, False, False]
    await deciding.limiter.release([names[0]])
    await asyncio.to_thread(victim.start)
    await asyncio.to_thread(redis_cluster.wait)
    await deciding.until(ready=True)
    assert await allowed(deciding, names[3], names[4]) == [True, False]
    assert await deciding.limiter.renew(names) == [False, True, True, True, False]
