"""Fixtures for every test: stores and the whole mesh, started when first asked for; no network in unit tests."""

import asyncio
import gc
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from deploy.local.stores.consul import Consul
from deploy.local.stores.postgres import Postgres
from deploy.local.stores.rabbitmq import RabbitMQ
from deploy.local.stores.redis import Redis
from tests.support.databases import Databases
from tests.support.mesh import Mesh, throw_away_mesh
from tests.support.otlp import Receiver, receiving
from tests.support.redis_cluster import RedisCluster
from tests.support.stores import Stores, open_stores
from tests.support.turns import Turns

_HERE = Path(__file__).parent
_UNIT = _HERE / "unit"
_ON_UVLOOP = (_HERE / "integration", _HERE / "contract")
# Whoever runs several files at a time shall not end with one of these.
_LONG = (_HERE / "end_to_end", _HERE / "integration" / "worker")


def pytest_configure() -> None:
    """Hypothesis tries the same examples each time, and takes its time: how fast a machine is, is not asserted."""
    settings.register_profile("ours", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("ours")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first; else the order stays."""
    items.sort(key=lambda item: item.path.parent not in _LONG)


def pytest_collection_finish() -> None:
    """What was imported and collected stays for the whole session: no search for garbage need look at it again."""
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Turns | None:
    """Of the ways to share tests out, `--dist loadfile` is ours."""
    return Turns(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that processes run on, where their parts meet stores and each other. What keeps unit tests from the
    network knows asyncio's own alone.
    """
    if any(item.path.is_relative_to(folder) for folder in _ON_UVLOOP):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def stores() -> Iterator[Stores]:
    """All stores of the session; `stores.postgres`, `.redis`, `.rabbit` and `.consul` start when first read."""
    opened = open_stores()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def databases(stores: Stores) -> Databases:
    """Makes databases, also from a template: `databases.make(template)`, `databases.url(name)`."""
    return Databases(stores.postgres)


@pytest.fixture
def postgres_server(stores: Stores) -> Iterator[Postgres]:
    """The running Postgres, to be stopped, killed or paused; it is brought back for the next test."""
    yield stores.postgres
    stores.postgres.heal()


@pytest.fixture
def redis_server(stores: Stores) -> Iterator[Redis]:
    """The running Redis, to be stopped, killed or paused; it is brought back for the next test."""
    yield stores.redis
    stores.redis.heal()


@pytest.fixture
def rabbit_server(stores: Stores) -> Iterator[RabbitMQ]:
    """The running RabbitMQ, to be stopped, killed or paused; it is brought back for the next test."""
    yield stores.rabbit
    stores.rabbit.heal()


@pytest.fixture
def consul_server(stores: Stores) -> Iterator[Consul]:
    """The running Consul agent, to be stopped, killed or paused; it is brought back (empty) for the next test."""
    yield stores.consul
    stores.consul.heal()


@pytest.fixture
def database_url(postgres_server: Postgres, databases: Databases) -> Iterator[str]:
    """The address of an empty database of this test's own."""
    name = databases.make()
    yield databases.url(name)
    postgres_server.heal()
    databases.drop(name)


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The address of an empty Redis."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def redis_cluster(stores: Stores) -> RedisCluster:
    """An empty Redis Cluster of three nodes, to be killed and rearranged; it is brought back for the next test."""
    stores.redis_cluster.heal()
    return stores.redis_cluster


@pytest.fixture
def amqp_url(rabbit_server: RabbitMQ, stores: Stores) -> Iterator[str]:
    """The address of a virtual host of this test's own."""
    name = stores.vhosts.make()
    yield rabbit_server.url_of(name)
    rabbit_server.heal()
    stores.vhosts.drop(name)


@pytest.fixture
def consul_url(consul_server: Consul) -> str:
    """The address of the Consul agent. Other tests register there as well: use names of your own."""
    return consul_server.url


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Where the session's mesh sends its traces."""
    with receiving() as started:
        yield started


@pytest.fixture(scope="session")
def mesh(receiver: Receiver) -> Iterator[Mesh]:
    """The whole mesh, shared by the session; webhooks may be called on this machine, and failed tries come soon."""
    webhooks = {
        "MESH_WEBHOOKS_ALLOW_HTTP": "true",
        "MESH_WEBHOOKS_ALLOWED_NETWORKS": "127.0.0.0/8",
        "MESH_WEBHOOKS_SCHEDULE_SECONDS": "0,0.5,0.5,0.5,5",
    }
    with throw_away_mesh(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **webhooks) as running:
        yield running


@pytest.fixture(autouse=True)
def no_network_in_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that opens a connection fails."""
    if not request.path.is_relative_to(_UNIT):
        return

    def refuse(_self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a unit test connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
