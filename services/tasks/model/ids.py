"""What names tasks, sessions and the like: a prefix, "_" and a ULID, so that ids sort by when they were made."""

from collections.abc import Iterator
from datetime import datetime
from os import urandom
from time import time_ns

from ulid_transform import bytes_to_ulid, ulid_at_time

_RANDOM_BYTES = 10
# Alone each would be a system call.
_AT_ONCE = 256
_MOMENT_DIGITS = 10
# A clock that was set back by more is believed: what was made before it lay in the future.
_BACK_MS = 1000


class Ids:
    """Makes ids that nobody can guess. Each sorts after the one before, also where the clock goes back a little."""

    def __init__(self) -> None:
        self._last = 0
        self._random = _random()

    def new(self, prefix: str) -> str:
        """A fresh one: milliseconds since the epoch (48 bits), then 80 bits."""
        number = (time_ns() // 1_000_000 << 8 * _RANDOM_BYTES) + next(self._random)
        if self._last - (_BACK_MS << 8 * _RANDOM_BYTES) < number <= self._last:
            # The leap is as hard to guess, and leaves room for sixty thousand more in the same millisecond.
            number = self._last + 1 + (number & (1 << 64) - 1)
        self._last = number
        return f"{prefix}_{bytes_to_ulid(number.to_bytes(16))}"


def _random() -> Iterator[int]:
    """Numbers of 80 bits. A fork of the process would go on with the same ones; nothing here forks."""
    while True:
        several = urandom(_RANDOM_BYTES * _AT_ONCE)
        for begin in range(0, len(several), _RANDOM_BYTES):
            yield int.from_bytes(several[begin : begin + _RANDOM_BYTES])


def first_id(prefix: str, at: datetime) -> str:
    """Before all ids that are made from this millisecond on, and after all earlier ones: its digits alone."""
    return f"{prefix}_{ulid_at_time(at.timestamp())[:_MOMENT_DIGITS]}"
