"""Two limiters whose Redis is killed, stopped and cut off under load: all are answered, and nothing passes twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import redis

from deploy.local.ports import free_port
from deploy.local.stores.redis import Redis
from tests.integration.ratelimit.fleet import INSTANCES, KINDS, WINDOW_SECONDS, Fleet, write_rules
from tests.integration.ratelimit.test_service import NOWHERE, Start, ask
from tests.support.faults.proxy import Mode, Proxy

pytestmark = pytest.mark.redis

_OUTAGE_SECONDS = 1.0
# The promise is 20 ms on a machine that has time for it.
_GENEROUS_P99_SECONDS = 0.25


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

    async def forget_scripts(self) -> None:
        """SCRIPT FLUSH, again and again."""
        with redis.Redis.from_url(self._server.url) as client:
            for _ in range(10):
                client.script_flush()
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Dead at once; comes back empty."""
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(_OUTAGE_SECONDS)
        await asyncio.to_thread(self._server.start)

    async def kill_with_data(self) -> None:
        """Comes back with what it had some time before its death."""
        with redis.Redis.from_url(self._server.url) as client:
            client.save()
        await asyncio.sleep(0.3)
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


Trouble = Callable[[Stage], Awaitable[None]]
TROUBLES: list[Trouble] = [Stage.kill, Stage.kill_with_data, Stage.stop, Stage.cut_off]


async def suffer(fleet: Fleet, stage: Stage, troubles: list[Trouble]) -> None:
    """Load before, during and after, for a window each."""

    async def story() -> None:
        await stage.forget_scripts()
        for trouble in troubles:
            await asyncio.sleep(WINDOW_SECONDS / 4)
            began = time.time()
            await trouble(stage)
            without = fleet.account.degraded_between(began, time.time())
            assert without, "nobody was decided without Redis although it was away"
            await fleet.connected()
            await asyncio.sleep(WINDOW_SECONDS / 2)

    await fleet.connected()
    await fleet.run(story)
    # The figures of a run are for whoever reads its output.
    print(f"p99 {fleet.account.slowest_percent() * 1000:.1f} ms;", {kind: fleet.account.most(kind) for kind in KINDS})  # noqa: T201 - see above


@pytest.fixture
def fleet(start_service: Start, stage: Stage, tmp_path: Path) -> Fleet:
    settings = {
        "REDIS_URL": stage.url,
        "MESH_RATE_LIMITS_FILE": str(write_rules(tmp_path / "rules.yaml")),
        "MESH_RATE_LIMITS_INSTANCES": str(INSTANCES),
        # Nobody reads what they say, and a full pipe would stop them.
        "MESH_LOG_LEVEL": "error",
    }
    return Fleet([start_service(**settings) for _ in range(INSTANCES)], "anna")


async def test_outages_let_nothing_pass_twice(fleet: Fleet, stage: Stage) -> None:
    """No error, and of every way to count at most a tenth more than the limit in any window, the outages among them."""
    await suffer(fleet, stage, [Stage.kill, Stage.stop, Stage.cut_off, Stage.fail_over])
    assert {kind: fleet.account.most(kind) for kind in KINDS if fleet.account.most(kind) > 1.1} == {}


@pytest.mark.long
async def test_many_outages_in_a_row(fleet: Fleet, stage: Stage) -> None:
    """Each kind of trouble five times, among them a Redis that comes back with old data; callers hardly notice."""
    await suffer(fleet, stage, [*TROUBLES * 5, Stage.fail_over])
    assert {kind: fleet.account.most(kind) for kind in KINDS if fleet.account.most(kind) > 1.1} == {}
    assert fleet.account.slowest_percent() < _GENEROUS_P99_SECONDS


def test_what_is_decided_without_redis_is_measured(start_service: Start) -> None:
    """The metrics say that Redis does not decide, and how often that was so."""
    port = free_port()
    with start_service(REDIS_URL=NOWHERE, MESH_METRICS_PORT=str(port)).stub() as stub:
        assert stub.Decide(ask("v1.chat")).decisions[0].degraded
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    assert "mesh_ratelimit_store_ready 0.0" in text
    assert "mesh_ratelimit_degraded_decisions_total 1.0" in text
