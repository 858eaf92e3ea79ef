"""What a request can want of its counters besides being counted: to be held, or to be given something back."""

from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple


class Action(IntEnum):
    """What an ask wants of its counters; the numbers are the script's.

    `TAKE`: its cost, or to know whether that would pass. `REFUND`: to give a part of a cost back, as `cost`.
    `RENEW`: one more lease for its hold. `RELEASE`: the end of its hold.
    """

    TAKE = 0
    REFUND = 1
    RENEW = 2
    RELEASE = 3


# A caller's id of a request that is held, as two numbers below 2^52.
Hold = tuple[int, int]
NO_HOLD: Hold = (0, 0)


def hold_of(name: str) -> Hold:
    """The hold of a caller's id: a digest, so that ids need no escaping and take the same place each."""
    digest = blake2b(name.encode(), digest_size=13).digest()
    number = int.from_bytes(digest, "big")
    return number >> 52, number & (2**52 - 1)


class Errand(NamedTuple):
    """What an ask wants besides taking its cost.

    Args:
        hold: under which it is held in concurrency rules.
        age_us: for a refund, how long ago the cost was taken; 0 when that is not known.
    """

    action: Action
    hold: Hold = NO_HOLD
    age_us: int = 0


def gives_back(errand: Errand | None) -> bool:
    """Whether something is to be counted no more."""
    return errand is not None and errand.action in {Action.REFUND, Action.RELEASE}
