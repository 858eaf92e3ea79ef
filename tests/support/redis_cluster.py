"""A real Redis Cluster of three masters, each with a replica or without; slots can be moved and nodes killed."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import redis
from redis.crc import key_slot

from deploy.local.ports import free_port
from deploy.local.state import StateDir, write_whole
from deploy.local.stores.redis import Redis

_SLOTS = 16384
_NODES = 3
_WAIT_SECONDS = 30.0
# How long a node must be silent before the others take it for dead.
_NODE_TIMEOUT_MS = 1000


class Node(Redis):
    """One node."""

    def __init__(self, state: StateDir, number: int) -> None:
        self.name = f"redis-cluster-{number}"
        self._bus_port = free_port()
        super().__init__(state)

    def prepare(self) -> None:
        super().prepare()
        lines = (
            self._file.read_text(encoding="utf-8"),
            "cluster-enabled yes",
            f"cluster-port {self._bus_port}",
            f"cluster-node-timeout {_NODE_TIMEOUT_MS}",
            # The other nodes go on without the slots of a dead one.
            "cluster-require-full-coverage no",
            f"masterauth {self._password}",
        )
        write_whole(self._file, "\n".join(lines) + "\n", mode=0o600)

    @property
    def place(self) -> tuple[int, int]:
        """Its port and its bus port."""
        return self.port, self._bus_port

    @property
    def password(self) -> str:
        return self._password

    def client(self) -> "redis.Redis":
        """A client of this node alone; close it."""
        return redis.Redis.from_url(self.url)

    def command_of(self, *words: str | int) -> object:
        """Sends one command."""
        with self.client() as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        return bytes(self.command_of("CLUSTER", "MYID")).decode()  # type: ignore[call-overload,no-any-return]  # any reply


class RedisCluster:
    """The cluster; made once, healed for each test.

    Args:
        replicated: each of the `nodes` has one of the `replicas`, in the same order.
    """

    def __init__(self, state: StateDir, *, replicated: bool = False) -> None:
        self.nodes = [Node(state, number) for number in range(1, _NODES + 1)]
        self.replicas = [Node(state, _NODES + number) for number in range(1, _NODES + 1)] if replicated else []

    def start(self) -> None:
        """Starts all nodes, makes them one cluster and returns when it serves."""
        everybody = [*self.nodes, *self.replicas]
        for node in everybody:
            node.start()
        for number, node in enumerate(self.nodes):
            low, high = (_SLOTS * step // _NODES for step in (number, number + 1))
            node.command_of("CLUSTER", "ADDSLOTSRANGE", low, high - 1)
        port, bus_port = everybody[0].place
        for node in everybody[1:]:
            node.command_of("CLUSTER", "MEET", "127.0.0.1", port, bus_port)
        self.wait()
        for node, replica in zip(self.nodes, self.replicas, strict=False):
            replica.command_of("CLUSTER", "REPLICATE", node.id)
        for replica in self.replicas:
            _until(partial(_follows, replica), f"{replica.name} to have what its master has")

    def wait(self) -> None:
        """Waits until every node knows every other, and all slots are kept."""
        everybody = [*self.nodes, *self.replicas]

        def whole(node: Node) -> bool:
            with node.client() as client:
                info = client.cluster("info")
                return (info["cluster_state"], info["cluster_slots_ok"], info["cluster_known_nodes"]) == (
                    "ok",
                    str(_SLOTS),
                    str(len(everybody)),
                )

        for node in everybody:
            _until(lambda node=node: whole(node), f"{node.name} to see a whole cluster")  # type: ignore[misc]  # a default

    def heal(self) -> None:
        """Brings every node back, and empties it."""
        for node in self.nodes:
            node.heal()
        self.wait()
        for node in self.nodes:
            node.command_of("FLUSHALL")

    def kill(self) -> None:
        """Ends every node."""
        for node in (*self.nodes, *self.replicas):
            node.kill()

    @property
    def url(self) -> str:
        """Any node's address."""
        return self.nodes[0].url

    def keeper(self, slot: int) -> Node:
        """Who keeps a slot, as the first node that runs knows it."""
        everybody = [*self.nodes, *self.replicas]
        running = next(node for node in everybody if node.child.alive)
        with running.client() as client:
            for first, last, (_, port, *_), *_ in client.execute_command("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return next(node for node in everybody if node.port == port)
        raise AssertionError(f"nobody keeps slot {slot}")

    def begin_move(self, slot: int, target: Node) -> None:
        """From now on the slot is on its way: keys that are not there yet are to be asked for at the target."""
        source = self.keeper(slot)
        target.command_of("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.command_of("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, slot: int, target: Node, most: int = 1000) -> int:
        """Moves keys of a slot that is on its way; how many there were."""
        source = self.keeper(slot)
        keys: list[bytes] = source.command_of("CLUSTER", "GETKEYSINSLOT", slot, most)  # type: ignore[assignment]
        if keys:
            words = ("MIGRATE", "127.0.0.1", target.port, "", 0, 1000, "AUTH", target.password, "KEYS", *keys)
            source.command_of(*words)  # type: ignore[arg-type]  # keys are bytes
        return len(keys)

    def end_move(self, slot: int, target: Node) -> None:
        """The slot has arrived."""
        for node in (target, *(node for node in self.nodes if node is not target)):
            node.command_of("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def tags(self, node: Node) -> Iterator[str]:
        """Words whose slots the node keeps, for ever."""
        number = 0
        while True:
            if self.keeper(key_slot(f"{number}".encode())) is node:
                yield f"{number}"
            number += 1


def _follows(replica: Node) -> bool:
    with replica.client() as client:
        found = client.info("replication")
        return (found["role"], found.get("master_link_status")) == ("slave", "up")


def _until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _WAIT_SECONDS
    while not condition():
        assert time.monotonic() < until, f"waited {_WAIT_SECONDS} s for {what}"
        time.sleep(0.05)
