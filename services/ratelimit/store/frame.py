"""Frames as the script reads and writes them: distinct keys, distinct limits, and one string of numbers each way."""

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from services.ratelimit.model.decisions import Verdict
from services.ratelimit.model.errands import Action
from services.ratelimit.model.limits import Algorithm, Ask, Limit
from services.ratelimit.ports import Answer, Debt

_KINDS = {
    Algorithm.FIXED_WINDOW: 1.0,
    Algorithm.SLIDING_WINDOW: 2.0,
    Algorithm.TOKEN_BUCKET: 3.0,
    Algorithm.CONCURRENCY: 4.0,
}
# Beyond what a counter can still say, so that no clock's rounding makes a key vanish early.
_LINGER_US = 1_000_000
# Longer still, so that few writes have to renew it, which costs Redis as much as the rest of the write. Places need no
# more: they are written as a whole in any case.
_SPARE_PART = 8
_LEAST_SPARE_US = 5_000_000


@lru_cache(maxsize=4096)
def _doubles(count: int) -> Struct:
    return Struct(f"<{count}d")


@lru_cache(maxsize=4096)
def _integers(count: int) -> Struct:
    return Struct(f"<{count}q")


class Place(NamedTuple):
    """Where a call is sent.

    Args:
        number_key: the key under which the server writes down the call's number; empty: it does not.
        scattered: the counters lie in several slots of one node of a cluster.
    """

    number_key: str = ""
    number: int = 0
    scattered: bool = False


HERE = Place()


class _Table:
    """Keys and limits of a frame, each once."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.limits: dict[Limit, int] = {}

    def arguments(self, mode: bytes, body: list[int], place: Place) -> tuple[bytes | str | int, ...]:
        """What follows EVALSHA and its digest."""
        numbers: list[float] = [len(self.limits)]
        lives = []
        for limit in self.limits:
            numbers += (_KINDS[limit.algorithm], limit.capacity, limit.unit)
            numbers += (limit.window_us, limit.rate, limit.granularity_us, limit.shadow + 2 * limit.counts_denied)
            needed_us = limit.longest_us + _LINGER_US
            numbers.append(needed_us)
            spare_us = 0 if limit.concurrent else needed_us // _SPARE_PART + _LEAST_SPARE_US
            lives.append((needed_us + spare_us) // 1000)
        numbers += body
        packed = _doubles(len(numbers)).pack(*numbers)
        number_key, number, scattered = place
        if not number_key and not scattered:
            return (len(self.keys), *self.keys, mode, packed, b"", *lives)
        if not scattered:
            return (len(self.keys) + 1, number_key, *self.keys, mode, packed, number, *lives)
        if number_key:
            return (1, number_key, mode, packed, number, *lives, *self.keys)
        first, *others = self.keys
        return (1, first, mode, packed, b"", *lives, *others)


def decide_arguments(asks: Sequence[Ask], place: Place = HERE) -> tuple[bytes | str | int, ...]:
    """The script's arguments for a frame of asks."""
    table = _Table()
    keys, limits = table.keys, table.limits
    body: list[int] = []
    for names, rules, cost, errand in asks:
        if errand is None:
            body += (len(names), cost, 0)
        else:
            numbers = (errand.age_us, 0) if errand.action is Action.REFUND else errand.hold
            body += (len(names), cost, 1 + errand.action, *numbers)
        for key, limit in zip(names, rules, strict=True):
            # Positions in the script count from 1. Most keys of a frame are new, most limits are not.
            if (its := limits.get(limit)) is None:
                its = limits[limit] = len(limits) + 1
            body += (keys.setdefault(key, len(keys) + 1), its)
    return table.arguments(b"decide", body, place)


def settle_arguments(debts: Sequence[Debt], place: Place = HERE) -> tuple[bytes | str | int, ...]:
    """The script's arguments for debts, at most one for each key."""
    table = _Table()
    body: list[int] = []
    for key, limit, state in debts:
        table.keys[key] = len(table.keys) + 1
        body += (table.limits.setdefault(limit, len(table.limits) + 1), len(state), *state)
    return table.arguments(b"settle", body, place)


def read_answer(asks: Sequence[Ask], reply: bytes) -> Answer:
    """The script's answer to a frame of asks."""
    numbers = _integers(len(reply) // 8).unpack(reply)
    verdicts = []
    # The class's own call takes three times as long.
    new = tuple.__new__
    at = 2
    for ask in asks:
        end = at + 3 + 2 * len(ask[0])
        verdict = new(Verdict, (numbers[at], numbers[at + 1], numbers[at + 3 : end], 0))
        verdicts.append(_marked(verdict) if numbers[at + 2] else verdict)
        at = end
    return Answer(verdicts, numbers[0])


def _marked(verdict: Verdict) -> Verdict:
    """The script marks limits that were violated by the sign of their reset."""
    levels, violated = list(verdict.levels), 0
    for index in range(len(levels) // 2):
        if levels[2 * index + 1] < 0:
            levels[2 * index + 1] = -1 - levels[2 * index + 1]
            violated |= 1 << index
    return verdict._replace(levels=tuple(levels), violated=violated)


def number_before(reply: bytes) -> int:
    """The number that was written down before the call that answered, 0 if there was none."""
    number: int = _integers(1).unpack_from(reply, 8)[0]
    return number
