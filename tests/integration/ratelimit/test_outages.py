"""Two limiters whose Redis is killed, stopped and cut off under load: all are answered, and nothing passes twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import redis

from deploy.local.ports import free_port
from deploy.local.state import StateDir
from deploy.local.stores.redis import Redis
from tests.integration.ratelimit.fleet import INSTANCES, KINDS, WINDOW_SECONDS, Fleet, write_rules
from tests.integration.ratelimit.test_service import NOWHERE, Start, ask
from tests.support.apart import RedisApart, cable
from tests.support.faults.proxy import Mode, Proxy

pytestmark = pytest.mark.redis

_OUTAGE_SECONDS = 1.0
# What an outage may cost one decision in a hundred, besides what the machine takes.
_PROMISED_P99_SECONDS = 0.02


class Replica(Redis):
    """A second server, to follow the first."""

    name = "redis-replica"


class Stage:
    """A Redis behind a wire that can be cut, and what can be done to both."""

    def __init__(self, server: Redis, wire: Proxy) -> None:
        self._server = server
        self._wire = wire
        self._replica = Replica(server.state)

    @property
    def url(self) -> str:
        """Where Redis is reached, whichever it is."""
        return self._wire.url

    def end(self) -> None:
        """Ends what was started here."""
        self._replica.kill()

    async def fail_over(self) -> None:
        """The server dies; its replica, which may lack the last writes, is promoted and takes over its address."""
        await asyncio.to_thread(self._replica.start)
        with redis.Redis.from_url(self._replica.url) as client:
            client.config_set("masterauth", urlsplit(self._server.url).password or "")
            client.replicaof("127.0.0.1", str(self._server.port))
            async with asyncio.timeout(30):
                while client.info("replication").get("master_link_status") != "up":
                    await asyncio.sleep(0.05)
            await asyncio.to_thread(self._server.kill)
            client.replicaof("NO", "ONE")
        self._wire.aim(self._replica.url)
        await asyncio.sleep(_OUTAGE_SECONDS)

    async def _forget_scripts(self) -> None:
        """SCRIPT FLUSH, again and again."""
        with redis.Redis.from_url(self._server.url) as client:
            for _ in range(10):
                client.script_flush()
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Its scripts are forgotten, which nobody notices; then it is dead at once, and comes back empty."""
        await self._forget_scripts()
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(_OUTAGE_SECONDS)
        await asyncio.to_thread(self._server.start)

    async def kill_with_data(self) -> None:
        """Comes back with what it had some time before its death."""
        with redis.Redis.from_url(self._server.url) as client:
            client.save()
        await self.kill()

    async def stop(self) -> None:
        """Frozen for a while."""
        self._server.pause()
        await asyncio.sleep(_OUTAGE_SECONDS)
        self._server.resume()

    async def cut_off(self) -> None:
        """Every packet is lost for a while."""
        self._wire.switch(Mode.HOLE)
        await asyncio.sleep(_OUTAGE_SECONDS)
        self._wire.switch(Mode.OPEN)


@pytest.fixture
async def stage(redis_server: Redis) -> AsyncIterator[Stage]:
    redis_server.flush()
    wire = Proxy(redis_server.url)
    await wire.start()
    found = Stage(redis_server, wire)
    yield found
    await wire.close()
    found.end()


Trouble = Callable[[], Awaitable[None]]


async def suffer(fleet: Fleet, troubles: Sequence[Trouble]) -> None:
    """Load before, during and after, for a window each."""

    async def story() -> None:
        for trouble in troubles:
            await asyncio.sleep(WINDOW_SECONDS / 4)
            began = time.time()
            await trouble()
            without = fleet.account.degraded_between(began, time.time())
            assert without, "nobody was decided without Redis although it was away"
            await fleet.connected()
            await asyncio.sleep(WINDOW_SECONDS / 2)

    await fleet.connected()
    await fleet.run(story)
    decisions, machine = fleet.account.slowest_percent()
    # The figures of a run are for whoever reads its output.
    print(  # noqa: T201 - see above
        f"p99 {decisions * 1000:.1f} ms, without a store {machine * 1000:.1f} ms;",
        {kind: fleet.account.most(kind) for kind in KINDS},
    )
    assert {kind: fleet.account.most(kind) for kind in KINDS if fleet.account.most(kind) > 1.1} == {}


def start_fleet(start_service: Start, url: str, rules: Path) -> Fleet:
    """Limiters over that Redis."""
    settings = {
        "REDIS_URL": url,
        "MESH_RATE_LIMITS_FILE": str(write_rules(rules)),
        "MESH_RATE_LIMITS_INSTANCES": str(INSTANCES),
        # Nobody reads what they say, and a full pipe would stop them.
        "MESH_LOG_LEVEL": "error",
    }
    return Fleet([start_service(**settings) for _ in range(INSTANCES)], "anna")


def in_time(fleet: Fleet) -> bool:
    decisions, machine = fleet.account.slowest_percent()
    return decisions - machine <= _PROMISED_P99_SECONDS


@pytest.fixture
def fleet(start_service: Start, stage: Stage, tmp_path: Path) -> Fleet:
    return start_fleet(start_service, stage.url, tmp_path / "rules.yaml")


async def test_outages_let_nothing_pass_twice(fleet: Fleet, stage: Stage) -> None:
    """No error, and of every way to count at most a tenth more than the limit in any window, the outages among them."""
    await suffer(fleet, [stage.kill, stage.stop, stage.cut_off, stage.fail_over])


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_many_outages_in_a_row(fleet: Fleet, stage: Stage) -> None:
    """Each kind of trouble five times, among them a Redis that comes back with old data; callers hardly notice."""
    await suffer(fleet, [*[stage.kill, stage.kill_with_data, stage.stop, stage.cut_off] * 5, stage.fail_over])
    assert in_time(fleet), fleet.account.slowest_percent()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_packets_that_are_really_lost(start_service: Start, tmp_path: Path) -> None:
    """On a network of its own: all for a while, and every third again and again; callers hardly notice."""
    with cable() as found:
        if found is None:
            pytest.skip("this process may not make network namespaces")
        apart = RedisApart(StateDir(tmp_path / "apart"), found)
        try:
            apart.start()
            fleet = start_fleet(start_service, apart.url, tmp_path / "rules.yaml")
            await suffer(fleet, [found.lose_all, found.lose_some] * 4)
        finally:
            apart.kill()
    assert in_time(fleet), fleet.account.slowest_percent()


def test_what_is_decided_without_redis_is_measured(start_service: Start) -> None:
    """The metrics say that Redis does not decide, and how often that was so."""
    port = free_port()
    with start_service(REDIS_URL=NOWHERE, MESH_METRICS_PORT=str(port)).stub() as stub:
        assert stub.Decide(ask("v1.chat")).decisions[0].degraded
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    assert "mesh_ratelimit_store_ready 0.0" in text
    assert "mesh_ratelimit_degraded_decisions_total 1.0" in text
