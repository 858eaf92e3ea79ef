"""One node of a cluster: a `RedisStore` of its own, the slots it keeps, and those of them that are on the move."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from chassis.errors import Unavailable
from services.ratelimit.model.limits import Ask
from services.ratelimit.ports import Answer, Debt, Ledger, Moved
from services.ratelimit.store.cluster_map import SLOTS, slot_of, tag_in
from services.ratelimit.store.cluster_slot import MovingSlot
from services.ratelimit.store.cluster_span import Home
from services.ratelimit.store.redis import RedisStore

# So long each slot of a node is asked about on its own after the node has disowned one without having lost it.
_MOVING_SECONDS = 1.0
_DEBTS_AT_ONCE = 200


class Cluster(Protocol):
    """What a node needs of those around it."""

    async def read_again(self, node: "Node") -> None:
        """The node does not keep what it was asked about: reads the map."""

    def store_at(self, address: str) -> RedisStore | None:
        """The node at ``host:port``."""

    def ledger_of(self, key: str) -> Ledger:
        """The account of who keeps a counter now."""


class _Account:
    """What a node is owed. A debt that comes back after its counter has moved goes where the counter went."""

    def __init__(self, ledger: Ledger, node: "Node", ledger_of: Callable[[str], Ledger]) -> None:
        self._ledger = ledger
        self._node = node
        self._ledger_of = ledger_of
        self.take_debts = ledger.take_debts
        self.owe = ledger.owe
        self.owe_everything = ledger.owe_everything

    @property
    def owes(self) -> bool:
        return self._ledger.owes

    @property
    def shared(self) -> bool:
        return self._ledger.shared

    def put_back(self, debts: Sequence[Debt]) -> None:
        for debt in debts:
            account = self._ledger if self._node.keeps(debt.key) else self._ledger_of(debt.key)
            account.put_back([debt])


class Node:
    """One node, the part of the ledger that it is owed, and the slots it keeps."""

    def __init__(self, cluster: Cluster, url: str, ledger: Ledger, *, deadline_seconds: float) -> None:
        self._cluster = cluster
        self._deadline_seconds = deadline_seconds
        self._moving: dict[int, MovingSlot] = {}
        self._moving_until = 0.0
        self._telling = asyncio.Lock()
        self.url = url
        self.ledger: Ledger = _Account(ledger, self, cluster.ledger_of)
        self.slots = bytearray(SLOTS)
        self.tag = ""
        self.store = RedisStore(url, self.ledger, deadline_seconds=deadline_seconds, keeps=self.keeps)

    def keeps(self, key: str) -> bool:
        """Whether it keeps a counter."""
        return bool(self.slots[slot_of(key)])

    def adopt(self, url: str, slots: bytearray) -> None:
        """What the map says of it now."""
        self.slots = slots
        # What was on the move may have arrived; if not, it is noticed again.
        self._moving_until = 0.0
        if not self.tag or not slots[slot_of(self.tag)]:
            self.tag = tag_in(slots)
            self.store.tag(self.tag)
        if url != self.url:
            self.url = url
            self.store.move(url)

    def home_of(self, slot: int) -> Home:
        """Who is to be asked about one of its slots."""
        if not self.moving:
            return self
        if slot not in self._moving:
            self._moving[slot] = MovingSlot(
                self.store,
                self.ledger,
                self._cluster.store_at,
                partial(self._cluster.read_again, self),
                self.tell_apart,
                deadline_seconds=self._deadline_seconds,
            )
        return self._moving[slot]

    @property
    def ready(self) -> bool:
        return self.store.ready

    def shares(self, asks: Sequence[Ask]) -> None:
        """It can be asked about all that it keeps."""

    async def decide(self, asks: Sequence[Ask]) -> Answer:
        """See the port."""
        try:
            return await self.store.decide(asks)
        except Moved:
            await self._cluster.read_again(self)
            raise

    def tell_soon(self) -> None:
        self.store.tell_soon()

    def begin_moving(self) -> None:
        """One of its slots is on the move."""
        self._moving_until = asyncio.get_running_loop().time() + _MOVING_SECONDS
        self.store.withholds = True

    @property
    def moving(self) -> bool:
        """Whether slots of it are on the move, as far as is known."""
        if self.store.withholds and asyncio.get_running_loop().time() > self._moving_until:
            self.store.withholds = False
            self._moving.clear()
        return self.store.withholds

    async def tell_apart(self) -> None:
        """While slots move: what is owed, each counter on its own, as far as it can be told."""
        async with self._telling:
            if not self.ledger.owes:
                return
            owed = self.ledger.take_debts(_DEBTS_AT_ONCE)
            told = await asyncio.gather(*map(self._tell, owed))
            self.ledger.put_back([debt for debt, done in zip(owed, told, strict=True) if not done])

    async def _tell(self, debt: Debt) -> bool:
        home = self.home_of(slot_of(debt.key))
        if not isinstance(home, MovingSlot):
            return False
        try:
            await home.settle(debt)
        except Unavailable:
            # If it was heard after all, it counts twice: too little may pass, never too much.
            return False
        return True
