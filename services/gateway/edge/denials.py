"""Refusals that are known to hold for a while: whoever asks again meanwhile is refused without a call.

Knows what a decision says and when it was asked for, not who decides. Remembers nothing unless somebody tells it which
rules are in force (`Denials.follow`), because a limit that was raised must work at once.
"""

from collections import OrderedDict
from math import ceil
from typing import NamedTuple

from mesh.ratelimit.v1 import ratelimit_pb2

Key = tuple[str, ...]

_MOST_KEPT = 10_000


class _Denial(NamedTuple):
    """A refusal. Until `holds_until` it is certain; at `passes_at` the same request passes; both monotonic."""

    decision: ratelimit_pb2.Decision
    received_at: float
    holds_until: float
    passes_at: float


class Denials:
    """Refusals by who asked for what, the one used longest ago forgotten first."""

    def __init__(self, most_kept: int = _MOST_KEPT) -> None:
        self._most = most_kept
        self._kept: OrderedDict[Key, _Denial] = OrderedDict()
        self._generation: int | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def follow(self, generation: int | None) -> None:
        """These rules are in force; None: nobody tells us, so nothing is remembered."""
        if generation != self._generation:
            self._kept.clear()
        self._generation = generation

    def find(self, key: Key, now: float) -> ratelimit_pb2.Decision | None:
        """The decision as it would be taken now, when it is certain to be no."""
        denial = self._kept.get(key)
        if denial is None:
            return None
        if now >= denial.holds_until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return _later(denial, now)

    def keep(self, key: Key, decision: ratelimit_pb2.Decision, asked_at: float, now: float) -> None:
        """Remembers a refusal if it is certain until its exact end.

        It is not when its counters were this process's guess, nor when a slot that is given back ends it early.

        Args:
            asked_at: when the request was sent: the counters were read at that time or later.
        """
        if decision.generation != self._generation or decision.degraded or not decision.HasField("retry_after_ms"):
            return
        if any(rule.violated and rule.concurrent for rule in decision.rules):
            return
        wait = decision.retry_after_ms / 1000
        self._kept[key] = _Denial(decision, now, asked_at + wait, now + wait)
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, key: Key) -> None:
        """Something was given back to its counters."""
        self._kept.pop(key, None)


def _later(denial: _Denial, now: float) -> ratelimit_pb2.Decision:
    passed_ms = int((now - denial.received_at) * 1000)
    decision = ratelimit_pb2.Decision()
    decision.CopyFrom(denial.decision)
    decision.retry_after_ms = max(1, ceil((denial.passes_at - now) * 1000))
    for rule in decision.rules:
        rule.reset_after_ms = max(0, rule.reset_after_ms - passed_ms)
    return decision
