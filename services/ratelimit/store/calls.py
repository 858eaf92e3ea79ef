"""The calls made to one Redis, and whether it still knows them: with each call it writes down the call's number.

A Redis that was restarted from a snapshot, or a replica that was promoted, knows less than it once answered. Its number
says exactly how much less.
"""

from collections import deque
from collections.abc import Callable
from uuid import uuid4

from chassis.logging import get_logger
from services.ratelimit.ports import Ledger
from services.ratelimit.store.flight import Flight
from services.ratelimit.store.frame import Place

log = get_logger(__name__)

# The answered calls kept for telling them again: some hundred milliseconds under load, more than a replica lags behind.
_KEPT = 128


class Calls:
    """Numbers calls, and knows what the newest ones counted.

    Args:
        keeps: whether a counter is kept by the server that these calls go to.
    """

    def __init__(self, ledger: Ledger, keeps: Callable[[str], bool]) -> None:
        self._ledger = ledger
        self._keeps = keeps
        self._name = uuid4().hex
        self._scattered = False
        self._sent = 0
        self._answered: deque[Flight] = deque()
        self._forgotten = 0
        self._lost = False
        self.key = f"rl:calls:{self._name}"

    def tag(self, tag: str) -> None:
        """From now on numbers are written where this hash tag is kept: on a node of a cluster."""
        self.key, self._scattered = f"rl:calls:{{{tag}}}{self._name}", True
        self._forget()

    def next(self) -> Place:
        """Where the next call is sent, with its number."""
        self._sent += 1
        return Place(self.key, self._sent, self._scattered)

    def answered(self, flight: Flight) -> bool:
        """Remembers a call. False: the server has forgotten those before it; `compare` will say what that means."""
        self._lost = self._lost or bool(self._answered and not flight.before)
        self._answered.append(flight)
        if len(self._answered) > _KEPT:
            self._forgotten = self._answered.popleft().number
        return not self._lost

    @property
    def newest(self) -> int:
        """The number of the call that was answered last; 0 for none."""
        return self._answered[-1].number if self._answered else 0

    def compare(self, known: int, newest: int) -> bool:
        """Whether the server knows every call it answered, by the number it has written down (0: none).

        `newest` is what it was when the server was asked: calls that were answered since say nothing.

        Counters that were changed by calls it does not know are owed to it again: exactly those calls when they are
        remembered, else all that is remembered of its counters. Then too little may pass for a while, never too much.
        """
        unknown = [flight for flight in self._answered if known < flight.number <= newest]
        if not unknown and not self._lost:
            return True
        log.warning("Redis has lost counters", known=known, answered=newest)
        if self._lost or known < self._forgotten or all(flight.number > known for flight in self._answered):
            self._ledger.owe_everything(self._keeps)
        else:
            for flight in unknown:
                flight.owe_again(self._ledger)
        self._forget()
        return False

    def _forget(self) -> None:
        self._answered.clear()
        self._lost = False
