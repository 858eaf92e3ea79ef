"""The counters on a real Redis Cluster, with a clock that the test sets."""

import asyncio
import hashlib
from collections.abc import Sequence

from chassis.clock import SystemClock
from services.ratelimit.memory import MemoryShadow
from services.ratelimit.model.decisions import ALLOWED, Verdict
from services.ratelimit.model.limits import Ask
from services.ratelimit.store import ClusterStore
from services.ratelimit.store.flight import Script
from tests.contract.ratelimit.counters import START_US

_WAIT_SECONDS = 30.0
_ASKS_TIME = b"redis.call('TIME')"


class InCluster:
    """The store itself; the script's one question for the time is answered by the test."""

    def __init__(self, url: str) -> None:
        self.now_us = START_US
        self._runner = asyncio.Runner()
        self._runner.run(self._open(url))

    async def _open(self, url: str) -> None:
        shadow = MemoryShadow(SystemClock(), lambda: 1, cap=10_000)
        self._store = ClusterStore(url, shadow, deadline_seconds=10.0)
        self._task = asyncio.get_running_loop().create_task(self._store.run())
        async with asyncio.timeout(_WAIT_SECONDS):
            while not self._store.ready:
                await asyncio.sleep(0.01)

    def decide(self, *asks: Ask) -> Sequence[Verdict]:
        return self._runner.run(self._decide(asks))

    async def _decide(self, asks: Sequence[Ask]) -> Sequence[Verdict]:
        seconds, micros = divmod(self.now_us, 1_000_000)
        source = Script.load().source.replace(_ASKS_TIME, b"{%d, %d}" % (seconds, micros))
        script = Script(source=source, digest=hashlib.sha1(source).hexdigest())
        nodes = self._store._nodes
        for node in nodes:
            node.store._script = script
        verdicts = [Verdict(ALLOWED, 0, ())] * len(asks)
        for store, indexes in self._store.shares(asks):
            answer = await store.decide([asks[index] for index in indexes])
            for index, verdict in zip(indexes, answer.verdicts, strict=True):
                verdicts[index] = verdict
        async with asyncio.timeout(_WAIT_SECONDS):
            # What was taken in vain is given back before time moves on.
            while any(node.ledger.owes or node.store._flights for node in nodes):
                await asyncio.sleep(0)
        return verdicts

    def close(self) -> None:
        self._task.cancel()
        self._runner.close()
