"""What neither a clock that is set nor a million callers change, and that a hint is worth waiting for."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import pytest
import redis
from mesh.ratelimit.v1 import ratelimit_pb2 as pb
from mesh.ratelimit.v1.ratelimit_pb2_grpc import RatelimitServiceStub

from deploy.local.stores.redis import Redis
from tests.integration.ratelimit.fleet import KINDS
from tests.integration.ratelimit.test_rules import until
from tests.integration.ratelimit.test_service import Start

pytestmark = pytest.mark.redis

LONG = [pytest.mark.long, pytest.mark.timeout(600)]

_ALGORITHMS = ("fixed_window", "sliding_window", "sliding_window", "token_bucket")
_LIMIT = 3
_PATIENCE_SECONDS = 30


def write_rules(path: Path, window: str) -> str:
    """A class for each way to count; of the two sliding windows the second, which is larger, is a ring."""
    classes = "".join(
        f"  {kind}.x:\n    - {{ name: {kind}, algorithm: {algorithm}, per: user,"
        f" limit: {_LIMIT + (kind == 'ring')}, window: {window} }}\n"
        for kind, algorithm in zip(KINDS, _ALGORITHMS, strict=True)
    )
    every = "".join(line for line in classes.splitlines(keepends=True) if " - " in line)
    text = f"version: 1\nexact_up_to: {_LIMIT}\nclasses:\n{classes}  all.x:\n{every.replace('name: ', 'name: all_')}"
    path.write_text(text, encoding="utf-8")
    return str(path)


def connected(stub: Any) -> None:
    until("decisions with Redis", _PATIENCE_SECONDS, lambda: stub.GetStatus(pb.GetStatusRequest()).store_connected)


def passes(stub: Any, user: str) -> list[bool]:
    """For each way to count whether one more request passes."""
    subjects = [pb.Subject(route_class=f"{kind}.x", user=user) for kind in KINDS]
    return [one.allowed for one in stub.Decide(pb.DecideRequest(subjects=subjects)).decisions]


def set_clock(off: Path, seconds: int) -> None:
    """Sets the process's clock; never to half a number."""
    new = off.with_suffix(".new")
    new.write_text(str(seconds), encoding="utf-8")
    new.replace(off)


def away_from_the_edge(window_seconds: int) -> None:
    """Waits until a fixed window does not end soon."""
    until("a new window", 60, lambda: time.time() % window_seconds < window_seconds - 30)


def test_a_clock_that_is_set_changes_no_decision(
    start_service: Start, redis_server: Redis, redis_url: str, tmp_path: Path
) -> None:
    """An hour ahead, an hour back, with Redis and without: windows of ten minutes neither end nor begin."""
    off, file = tmp_path / "off", write_rules(tmp_path / "rules.yaml", "10m")
    set_clock(off, 0)
    clock = ("tests.support.stepping_clock", str(off))
    service = start_service(
        *clock, REDIS_URL=redis_url, MESH_RATE_LIMITS_FILE=file, MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS="1"
    )
    with service.stub() as stub:
        connected(stub)
        away_from_the_edge(600)
        found = []
        for seconds in (0, 3600, -3600):
            set_clock(off, seconds)
            found.append(passes(stub, "anna"))
        # The ring has room for one more.
        assert found == [[True] * 4] * 3
        assert passes(stub, "anna") == [False, False, True, False]
        redis_server.kill()
        for seconds in (3600, -3600, 0):
            set_clock(off, seconds)
            assert passes(stub, "anna") == [False] * 4


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=LONG)])
def test_many_keys_leave_memory_flat(start_service: Start, redis_url: str, tmp_path: Path, count: int) -> None:
    """However many callers there have been: the process does not grow, and all that is in Redis expires."""
    file = write_rules(tmp_path / "rules.yaml", "1h")
    # Generous, so that a busy machine is not taken for a Redis that hangs: then fewer keys would be made.
    settings = {"MESH_RATE_LIMITS_SHADOW_KEYS": "5000", "MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS": "5"}
    service = start_service(REDIS_URL=redis_url, MESH_RATE_LIMITS_FILE=file, **settings)
    with service.stub() as stub:
        connected(stub)
        users = (f"user{number}" for number in itertools.count())
        ask_for(stub, users, count // 5)
        before = psutil.Process(service.process.pid).memory_info().rss
        ask_for(stub, users, count - count // 5)
        grown = psutil.Process(service.process.pid).memory_info().rss - before
    # A key that is kept costs some 400 bytes, so 32 MB and more; the allocator's own ups and downs reach 20 MB.
    assert grown < 28 * 1024 * 1024, f"{grown / 1024 / 1024:.0f} MB more"
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() >= count
    assert eternal_keys(redis_url) <= {b"rl:{rules}"}


def ask_for(stub: Any, users: Iterator[str], keys: int) -> None:
    """As many decisions as use so many keys."""
    for _ in range(0, keys, 200 * len(KINDS)):
        subjects = [pb.Subject(route_class="all.x", user=user) for user in itertools.islice(users, 200)]
        stub.Decide(pb.DecideRequest(subjects=subjects), timeout=_PATIENCE_SECONDS)


def eternal_keys(url: str) -> set[bytes]:
    with redis.Redis.from_url(url) as client:
        found: set[bytes] = set()
        names = client.scan_iter(count=1000)
        while keys := list(itertools.islice(names, 1000)):
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.pttl(key)
                found |= {key for key, life in zip(keys, pipe.execute(), strict=True) if life == -1}
        return found


@pytest.mark.parametrize("trials", [1000, pytest.param(10_000, marks=LONG)])
async def test_a_retry_at_the_hint_passes(start_service: Start, redis_url: str, tmp_path: Path, trials: int) -> None:
    """Of a thousand who are denied and come back exactly when they were told, all but one in a thousand pass."""
    file = write_rules(tmp_path / "rules.yaml", "1s")
    service = start_service(
        REDIS_URL=redis_url, MESH_RATE_LIMITS_FILE=file, MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS="5"
    )
    async with grpc.aio.insecure_channel(service.address) as channel:
        stub: Any = RatelimitServiceStub(channel)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not (await stub.GetStatus(pb.GetStatusRequest(), wait_for_ready=True)).store_connected:
                await asyncio.sleep(0.02)
        at_once = asyncio.Semaphore(500)
        found = await asyncio.gather(*(retry(stub, at_once, number) for number in range(trials)))
    assert sum(found) >= trials * 0.999


async def retry(stub: Any, at_once: asyncio.Semaphore, number: int) -> bool:
    """Whether a user passes who is denied, and then asks exactly at the hint."""
    subject = pb.Subject(route_class=f"{KINDS[number % len(KINDS)]}.x", user=f"user{number}")
    once = pb.DecideRequest(subjects=[subject])
    async with at_once:
        assert (await stub.Decide(once)).decisions[0].allowed
        # In one call, so that a machine that is slow is not too slow to be denied.
        many = await stub.Decide(pb.DecideRequest(subjects=[subject] * (_LIMIT + 2)))
        assert not any(decision.degraded for decision in many.decisions)
        denied = next(decision for decision in many.decisions if not decision.allowed)
        await asyncio.sleep(denied.retry_after_ms / 1000)
        return bool((await stub.Decide(once)).decisions[0].allowed)
