"""When a frame leaves: as soon as nobody else comes.

There is no timer. A lull is a number of turns of the event loop that brought no further call: they pass within 50 µs in
a loop with nothing to do, and in a busy one each takes as long as its work. So the busier the process, the more calls
share what one frame costs here and in Redis, and who comes alone hardly waits.
"""

import asyncio
from collections.abc import Callable, Sized

# A call takes several turns from its arrival to the store. At saturation 2 turns make frames of two calls and 80 of
# eight; 200 save no more. How many are worth their time the last frame tells: where calls come one by one, waiting for
# company costs each of them and brings none.
_QUIET_TURNS_A_CALL = 10
_MOST_QUIET_TURNS = 80
# This many calls share all that there is to share.
_MOST_CALLS = 64
# Calls that keep trickling in do not hold up the first of them.
_LONGEST_SECONDS = 0.002


class Lull:
    """Calls `then` when nothing more has joined `waiting` for a while, or enough has."""

    def __init__(self, waiting: Sized, then: Callable[[], None]) -> None:
        self._waiting = waiting
        self._then = then
        self._seen = 0
        self._quiet_turns = 0
        self._enough_turns = _QUIET_TURNS_A_CALL
        self._until = 0.0
        self.awaited = False

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Waits for the next lull; the turn that runs now is no part of it."""
        self.awaited = True
        self._seen = self._quiet_turns = 0
        self._until = loop.time() + _LONGEST_SECONDS
        loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        count = len(self._waiting)
        self._quiet_turns = self._quiet_turns + 1 if count == self._seen else 0
        self._seen = count
        if self._quiet_turns < self._enough_turns and count < _MOST_CALLS and loop.time() < self._until:
            loop.call_soon(self._turn, loop)
        else:
            self.awaited = False
            self._enough_turns = min(_MOST_QUIET_TURNS, _QUIET_TURNS_A_CALL * max(1, count))
            self._then()
