"""The store over Redis Cluster: each node is a `RedisStore` of its own, and a map says who keeps which counter.

Every node gets what waits for it as one script call, at the same time as the others. A node that is away takes only the
decisions about its own counters along; the others go on with Redis.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import hiredis

from chassis.errors import Unavailable
from chassis.logging import get_logger
from services.ratelimit.model.limits import Ask
from services.ratelimit.ports import Answer, Debt, Ledger, Shadow, Store
from services.ratelimit.store.cluster_map import SLOTS, Range, each_of, read_map, slot_of
from services.ratelimit.store.cluster_node import Node
from services.ratelimit.store.cluster_span import Home, Span
from services.ratelimit.store.connection import connect
from services.ratelimit.store.redis import RedisStore

log = get_logger(__name__)

_READ_EVERY_SECONDS = 10.0
# While a node is away, because another one may take over.
_READ_SOON_SECONDS = 0.25
_READ_PAUSE_SECONDS = 0.01
_ASK_A_NODE_SECONDS = 0.5
_DEBTS_AT_ONCE = 200


class ClusterStore:
    """The counters that all instances share, on the nodes of a cluster.

    Args:
        url: any node; the others are found from there. Several are ``redis://host:port,host:port``.
        deadline_seconds: as for `RedisStore`, for each node.
    """

    def __init__(self, url: str, shadow: Shadow, *, deadline_seconds: float) -> None:
        self._seeds = each_of(url)
        self._shadow = shadow
        self._deadline_seconds = deadline_seconds
        self._nodes: list[Node] = []
        self._keepers: list[Node | None] = [None] * SLOTS
        self._unknown = _Unknown(shadow)
        self._version: Sequence[Range] = ()
        self._stale = asyncio.Event()
        self._read: asyncio.Future[None] | None = None
        self._tasks: dict[Node, asyncio.Task[None]] = {}
        shadow.split(self.ledger_of)

    # -- decisions -----------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether all nodes decide."""
        return bool(self._nodes) and None not in self._keepers and all(node.ready for node in self._nodes)

    async def decide(self, asks: Sequence[Ask]) -> Answer:
        """Decides in one place what may belong in several; `shares` says how to avoid that."""
        return await Span(self._home_of, self._shadow).decide(asks)

    def shares(self, asks: Sequence[Ask]) -> Sequence[tuple[Store, Sequence[int]]]:
        """What belongs to one node, or to one moving slot, goes there together; what spans several goes apart."""
        found: dict[tuple[Home, ...], list[int]] = {}
        for index, ask in enumerate(asks):
            homes = tuple(dict.fromkeys(self._home_of(key) for key in ask.keys))
            # What no rule matches can be told anywhere.
            found.setdefault(homes or self._anywhere, []).append(index)
        return [
            (homes[0] if len(homes) == 1 else Span(self._home_of, self._shadow), indexes)
            for homes, indexes in found.items()
        ]

    @property
    def _anywhere(self) -> tuple[Home, ...]:
        return (self._nodes[0] if self._nodes else self._unknown,)

    def _home_of(self, key: str) -> Home:
        slot = slot_of(key)
        node = self._keepers[slot]
        return self._unknown if node is None else node.home_of(slot)

    def ledger_of(self, key: str) -> Ledger:
        """The account of who keeps a counter now."""
        node = self._keepers[slot_of(key)]
        return self._unknown.ledger if node is None else node.ledger

    def store_at(self, address: str) -> RedisStore | None:
        """The node at ``host:port``."""
        return next((node.store for node in self._nodes if urlsplit(node.url).netloc.endswith(address)), None)

    # -- the map -------------------------------------------------------------------------------------------------

    async def read_again(self, node: Node) -> None:
        """A node has said that it does not keep what it was asked about: waits for the map, but no longer than for it.

        When the map does not know better, slots are on the move.
        """
        before, reading = self._version, self._reading()
        self._stale.set()
        await asyncio.wait({reading}, timeout=self._deadline_seconds)
        if self._version == before:
            node.begin_moving()

    def _reading(self) -> "asyncio.Future[None]":
        """Ends with the reading that is under way, else with the next one."""
        if self._read is None or self._read.done():
            self._read = asyncio.get_running_loop().create_future()
        return self._read

    async def run(self) -> None:
        """Keeps the map and a connection to every node, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                reading = self._reading()
                if (ranges := await self._read_map()) is not None:
                    self._adopt(ranges, group)
                self._stale.clear()
                reading.set_result(None)
                for node in self._nodes:
                    if node.moving:
                        # Who finds meanwhile that a slot has arrived waits for the next reading.
                        group.create_task(node.tell_apart())
                await asyncio.sleep(_READ_PAUSE_SECONDS)
                calm = self.ready and not any(node.moving for node in self._nodes)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_READ_EVERY_SECONDS if calm else _READ_SOON_SECONDS):
                        await self._stale.wait()

    async def _read_map(self) -> list[Range] | None:
        """What the first node that answers knows; None when none does."""
        for node in self._nodes:
            if (connection := node.store.connection) is not None:
                with suppress(OSError, hiredis.ReplyError):
                    return await read_map(connection, node.url, timeout_seconds=_ASK_A_NODE_SECONDS)
        reason = "no node is known"
        for url in dict.fromkeys([*self._seeds, *(node.url for node in self._nodes)]):
            try:
                connection = await connect(url, timeout_seconds=_ASK_A_NODE_SECONDS)
                try:
                    return await read_map(connection, url, timeout_seconds=_ASK_A_NODE_SECONDS)
                finally:
                    connection.close()
            except (OSError, hiredis.ReplyError) as error:
                reason = f"{type(error).__name__}: {error}"
        log.warning("No node tells the map of the cluster", reason=reason)
        return None

    def _adopt(self, ranges: list[Range], group: asyncio.TaskGroup) -> None:
        ranges = sorted(ranges)
        if ranges == self._version:
            return
        log.info("The map of the cluster has changed", nodes=len({one.url for one in ranges}))
        self._version = ranges
        slots: dict[str, bytearray] = {}
        for first, last, url in ranges:
            slots.setdefault(url, bytearray(SLOTS))[first : last + 1] = b"\x01" * (last + 1 - first)
        known = {node.url: node for node in self._nodes}
        # A node at a new address that keeps where another one wrote its numbers has taken over from it.
        for node in [node for node in self._nodes if node.url not in slots]:
            heir = next((url for url, kept in slots.items() if url not in known and kept[slot_of(node.tag)]), None)
            del known[node.url]
            if heir is not None:
                known[heir] = node
        for url in slots.keys() - known.keys():
            known[url] = Node(self, url, self._shadow.open_ledger(), deadline_seconds=self._deadline_seconds)
        self._replace({url: known[url] for url in slots}, slots, group)

    def _replace(self, nodes: dict[str, Node], slots: dict[str, bytearray], group: asyncio.TaskGroup) -> None:
        owed = [debt for node in self._nodes for debt in _all_debts(node.ledger)] + _all_debts(self._unknown.ledger)
        for url, node in nodes.items():
            node.adopt(url, slots[url])
        for gone in set(self._nodes) - set(nodes.values()):
            self._tasks.pop(gone).cancel()
        for node in set(nodes.values()) - set(self._nodes):
            self._tasks[node] = group.create_task(node.store.run())
        self._nodes = list(nodes.values())
        keepers: list[Node | None] = [None] * SLOTS
        for node in self._nodes:
            for slot, kept in enumerate(node.slots):
                if kept:
                    keepers[slot] = node
        self._keepers = keepers
        for debt in owed:
            self.ledger_of(debt.key).put_back([debt])
        for node in self._nodes:
            node.tell_soon()

    async def ping(self) -> None:
        """Asks every node for a sign of life. Raises when one does not answer."""
        if not self.ready:
            raise Unavailable(private="a node of the cluster is away")
        await asyncio.gather(*(node.store.ping() for node in self._nodes))


class _Unknown:
    """Where what no node keeps would be."""

    ready = False

    def __init__(self, shadow: Shadow) -> None:
        self.ledger = shadow.open_ledger()

    def shares(self, asks: Sequence[Ask]) -> None:
        """There is nobody to be asked."""

    async def decide(self, asks: Sequence[Ask]) -> Answer:
        del asks
        raise Unavailable(private="no node of the cluster keeps this")

    def tell_soon(self) -> None:
        """There is nobody to be told."""


def _all_debts(ledger: Ledger) -> list[Debt]:
    debts: list[Debt] = []
    while ledger.owes:
        debts += ledger.take_debts(_DEBTS_AT_ONCE)
    return debts
