"""Frames as the script reads and writes them: distinct keys, distinct limits, and one string of numbers each way."""

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

from services.ratelimit.model.decisions import Verdict
from services.ratelimit.model.limits import Algorithm, Ask, Limit
from services.ratelimit.ports import Answer, Debt

_KINDS = {Algorithm.FIXED_WINDOW: 1.0, Algorithm.SLIDING_WINDOW: 2.0, Algorithm.TOKEN_BUCKET: 3.0}
# Beyond what a counter can still say, so that no clock's rounding makes a key vanish early.
_LINGER_MS = 1000


@lru_cache(maxsize=4096)
def _doubles(count: int) -> Struct:
    return Struct(f"<{count}d")


@lru_cache(maxsize=4096)
def _integers(count: int) -> Struct:
    return Struct(f"<{count}q")


class _Table:
    """Keys and limits of a frame, each once."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.limits: dict[Limit, int] = {}

    def arguments(self, mode: bytes, body: list[int]) -> tuple[bytes | str | int, ...]:
        """What follows EVALSHA and its digest."""
        numbers: list[float] = [len(self.limits)]
        lives = []
        for limit in self.limits:
            numbers += (_KINDS[limit.algorithm], limit.capacity, limit.unit)
            numbers += (limit.window_us, limit.rate, limit.granularity_us)
            lives.append(limit.longest_us // 1000 + _LINGER_MS)
        numbers += body
        packed = _doubles(len(numbers)).pack(*numbers)
        return (len(self.keys), *self.keys, mode, packed, *lives)


def decide_arguments(asks: Sequence[Ask]) -> tuple[bytes | str | int, ...]:
    """The script's arguments for a frame of asks."""
    table = _Table()
    keys, limits = table.keys, table.limits
    body: list[int] = []
    for names, rules, cost in asks:
        body += (len(names), cost)
        for key, limit in zip(names, rules, strict=True):
            # Positions in the script count from 1.
            body += (keys.setdefault(key, len(keys) + 1), limits.setdefault(limit, len(limits) + 1))
    return table.arguments(b"decide", body)


def settle_arguments(debts: Sequence[Debt]) -> tuple[bytes | str | int, ...]:
    """The script's arguments for debts, at most one for each key."""
    table = _Table()
    body: list[int] = []
    for key, limit, state, at_least in debts:
        table.keys[key] = len(table.keys) + 1
        body += (table.limits.setdefault(limit, len(table.limits) + 1), int(at_least), len(state), *state)
    return table.arguments(b"settle", body)


def read_answer(asks: Sequence[Ask], reply: bytes) -> Answer:
    """The script's answer to a frame of asks."""
    numbers = _integers(len(reply) // 8).unpack(reply)
    verdicts = []
    at = 1
    for ask in asks:
        end = at + 2 + 2 * len(ask[0])
        verdicts.append(Verdict(numbers[at], numbers[at + 1], numbers[at + 2 : end]))
        at = end
    return Answer(verdicts, numbers[0])
