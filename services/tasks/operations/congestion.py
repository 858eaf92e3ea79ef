"""Whether a group's backlog stays although its workers work: then acceptance outruns the work, and who submits waits.

Work by pointers costs more than work in offered slots. So a backlog that a moment's burst or an outage has left feeds
on itself: it keeps tasks from slots, they cost more, and as many come meanwhile as are worked off.
"""

_FIRST_SECONDS = 0.05
_MOST_SECONDS = 0.4
# So many who submit at once find their slots without it.
_MOST_CALLERS = 500
# Of the group's slots: as many may wait for their claims where nothing is wrong, or what is worked off in a moment; and
# as many who submit at once do not fill it.
_FEW_SHARE = 4
_MOMENT_SECONDS = 0.05
_FEW_CALLERS = 16
# At so many looks in a row the backlog did not fall: they are held twice as long, and when that is the most not at all
# for some looks, twice as many each time. Others fill it then, or the broker is away; when that is back, they are held
# for long from the start.
_MOST_IN_VAIN = 2
_FIRST_REST = 1
_MOST_REST = 8


class Congestion:
    """One group, looked at once or twice a second.

    Attributes:
        seconds: so long who submits is held for the work to catch up; 0: not at all.
        backlog: what waited at the last look.
    """

    __slots__ = ("_few", "_in_vain", "_next_rest", "_next_seconds", "_rest", "backlog", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.backlog = 0
        self._few = 0.0
        self._in_vain = 0
        self._rest = 0
        self._next_rest = _FIRST_REST
        self._next_seconds = _FIRST_SECONDS

    def is_few(self, waiting: int) -> bool:
        """Whether so many tasks are on their way rather than a backlog."""
        return waiting <= self._few

    def look(self, waiting: int, slots: int, callers: float, ended_per_second: float) -> None:
        """What the group looks like now.

        Args:
            waiting: tasks that wait for a worker.
            slots: of the group's workers.
            callers: who submitted one task each at any moment since the last look.
            ended_per_second: since then.
        """
        before, self.backlog = self.backlog, waiting
        was_backlog = not self.is_few(before)
        self._few = max(slots // _FEW_SHARE, ended_per_second * _MOMENT_SECONDS)
        many = callers > max(slots // _FEW_SHARE, _FEW_CALLERS)
        if self.is_few(waiting):
            self._rest, self._next_rest, self._next_seconds = 0, _FIRST_REST, _FIRST_SECONDS
            # More of them come through as long as they wait long enough for a slot.
            if callers <= _MOST_CALLERS:
                self.seconds = 0.0
        elif not many:
            # It is not they who fill it.
            self.seconds = 0.0
        elif self.seconds:
            self._in_vain = self._in_vain + 1 if waiting >= before else 0
            if self._in_vain == _MOST_IN_VAIN:
                self._hold_longer()
        elif self._rest:
            self._rest -= 1
        elif was_backlog and waiting >= before:
            self.seconds, self._in_vain = self._next_seconds, 0

    def _hold_longer(self) -> None:
        self._in_vain = 0
        self.seconds *= 2
        if self.seconds > _MOST_SECONDS:
            self.seconds, self._next_seconds = 0.0, _MOST_SECONDS / 2
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, _MOST_REST)
