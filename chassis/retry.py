"""Whether a failed call may be tried again, and when: full jitter, and a budget so that retries cannot feed an
outage.
"""

import random


class RetryBudget:
    """At most one retry for every ten calls, with a small reserve for quiet times.

    A token bucket fed by calls instead of time, as in gRPC's retry throttling: when everything fails, retries add a
    tenth to the load and not a multiple.
    """

    _PER_CALL = 0.1

    def __init__(self, reserve: float = 10.0) -> None:
        self._reserve = reserve
        self._tokens = reserve

    def earn(self) -> None:
        """A call was made."""
        self._tokens = min(self._reserve, self._tokens + self._PER_CALL)

    def spend(self) -> bool:
        """Takes a retry out of the budget; False when it is used up."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def backoff_seconds(attempt: int, *, first: float = 0.02, most: float = 1.0) -> float:
    """Full jitter: a random wait up to `first` doubled `attempt` times (from 0), at most `most`."""
    return random.uniform(0.0, min(most, first * 2.0**attempt))  # noqa: S311 - not a secret
