"""Private stores for one test session: each is started when a test first asks for it, shared by the session, and ended
with it, also when the session is killed.
"""

import atexit
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pytest

from deploy.local.consul_program import fetch_consul, find_consul
from deploy.local.environment import current
from deploy.local.guard import start_guard
from deploy.local.problems import Problem
from deploy.local.state import StateDir
from deploy.local.stores.consul import Consul
from deploy.local.stores.postgres import Postgres
from deploy.local.stores.rabbitmq import RabbitMQ
from deploy.local.stores.redis import Redis
from deploy.local.stores.store import Store
from tests.support.redis_cluster import RedisCluster
from tests.support.vhosts import Vhosts

S = TypeVar("S", bound=Store)


class Stores:
    """The session's stores."""

    def __init__(self) -> None:
        # Unwound backwards: the stores end, then the guard, which takes the data with it.
        self._stack = ExitStack()

    @cached_property
    def state(self) -> StateDir:
        state = StateDir(Path(tempfile.mkdtemp(prefix="agentmesh-tests-")))
        self._stack.callback(start_guard(state, erase=True).communicate)
        return state

    def _start(self, store: S) -> S:
        self._stack.callback(store.kill)
        store.start()
        return store

    @cached_property
    def postgres(self) -> Postgres:
        return self._start(Postgres(self.state, durable=False))

    @cached_property
    def redis(self) -> Redis:
        return self._start(Redis(self.state))

    @cached_property
    def redis_cluster(self) -> RedisCluster:
        cluster = RedisCluster(self.state)
        self._stack.callback(cluster.kill)
        cluster.start()
        return cluster

    @cached_property
    def rabbit(self) -> RabbitMQ:
        return self._start(RabbitMQ(self.state))

    @cached_property
    def vhosts(self) -> Vhosts:
        vhosts = Vhosts(self.rabbit)
        self._stack.callback(vhosts.close)
        return vhosts

    @cached_property
    def consul(self) -> Consul:
        cache = current().cache
        try:
            program = find_consul(cache) or fetch_consul(cache)
        except Problem as problem:
            pytest.skip(f"no Consul on this machine and none to be had: {problem}")
        return self._start(Consul(self.state, program))

    def close(self) -> None:
        """Ends everything and removes its data."""
        self._stack.close()


def open_stores() -> Stores:
    """The stores of a session; they end with the interpreter at the latest."""
    stores = Stores()
    atexit.register(stores.close)
    return stores
