"""How fast one worker's frames are taken from its socket. Pure; time is an argument, and its caller pauses."""

# What lies in a socket's buffer is read without a turn of the loop; so the others get theirs after this many frames.
_FRAMES_A_TURN = 32
# Far above what a worker has to say: a thousand tasks a second, each accepted and answered.
_FRAMES_A_SECOND = 2000


class Pace:
    """Counts frames. Beyond a bound nothing more is read for the rest of the second, so that the sender waits too."""

    def __init__(self) -> None:
        self._taken = 0
        self._since = float("-inf")

    def take(self, now: float) -> float | None:
        """One more frame was taken at `now` (monotonic seconds).

        Returns the seconds to pause before the next: 0.0 is one turn for everybody else, None no pause at all.
        """
        if now - self._since >= 1.0:
            self._taken, self._since = 0, now
        self._taken += 1
        if self._taken >= _FRAMES_A_SECOND:
            rest_seconds = self._since + 1.0 - now
            self._taken, self._since = 0, now + rest_seconds
            return rest_seconds
        return None if self._taken % _FRAMES_A_TURN else 0.0
