"""The same counters twice, both with a clock that the test sets: in memory, and in Redis by the script itself."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import redis

from services.ratelimit.memory import Counters
from services.ratelimit.model.decisions import Verdict
from services.ratelimit.model.limits import Ask
from services.ratelimit.ports import Debt
from services.ratelimit.store.flight import Script
from services.ratelimit.store.frame import decide_arguments, read_answer, settle_arguments

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z, a whole hour


class SettableCounters(Protocol):
    now_us: int

    def decide(self, *asks: Ask) -> Sequence[Verdict]:
        """Decides a frame."""


class InMemory:
    def __init__(self) -> None:
        self.now_us = START_US
        self.counters = Counters(10_000)

    def decide(self, *asks: Ask) -> Sequence[Verdict]:
        return [self.counters.decide(ask, self.now_us) for ask in asks]


class InRedis:
    """Runs store.lua; its one question for the time is answered by the test.

    Keys expire by the real time all the same: a test that takes longer than some counter lives, on a machine that
    stalls at least, makes them live longer by `extra_life_ms`.
    """

    def __init__(self, url: str) -> None:
        self.now_us = START_US
        self.extra_life_ms = 0
        self.client = redis.Redis.from_url(url)
        asks_time = b"redis.call('TIME')"
        source = Script.load().source
        assert source.count(asks_time) == 1
        source = source.replace(asks_time, b"redis.call('MGET', 'test:seconds', 'test:micros')")
        self.script = Script(source=source, digest=hashlib.sha1(source).hexdigest())

    def _run(self, arguments: Sequence[bytes | str | int]) -> bytes:
        seconds, micros = divmod(self.now_us, 1_000_000)
        self.client.mset({"test:seconds": seconds, "test:micros": micros})
        count, *rest = arguments
        # Of all that follows the count of keys only lives are numbers.
        lasting = [one + self.extra_life_ms if isinstance(one, int) else one for one in rest]
        answer = self.client.execute_command(*self.script.by_source([count, *lasting]))  # type: ignore[no-untyped-call]  # so it is
        return bytes(answer)

    def decide(self, *asks: Ask) -> Sequence[Verdict]:
        answer = read_answer(asks, self._run(decide_arguments(asks)))
        assert answer.now_us == self.now_us
        return answer.verdicts

    def settle(self, *debts: Debt) -> None:
        self._run(settle_arguments(debts))

    def close(self) -> None:
        self.client.close()
