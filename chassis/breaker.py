"""A circuit breaker: three states as a table, no I/O, the clock injected.

One probe at a time in half-open, held under a lease so that a cancelled probe cannot wedge it, and results of calls
that began before the state changed are ignored (each carries the generation it began in).
"""

from contextlib import AbstractAsyncContextManager
from types import TracebackType

from chassis.clock import Clock
from chassis.errors import DeadlineExceeded, Internal, MeshError, Unavailable

_FAILURES = (Unavailable, DeadlineExceeded, Internal)


class Breaker:
    """Counts consecutive failures of something and refuses calls to it for a while after too many.

    ``async with breaker.guard():`` guards one call. Inside, Unavailable, DeadlineExceeded, Internal and errors
    outside the mesh's vocabulary count as failures; the rest (the caller's mistakes) count as successes; cancellation
    counts as neither. Raises Unavailable (code ``CIRCUIT_OPEN``, with retry_after_seconds) while it is open.
    """

    def __init__(self, name: str, clock: Clock, *, failure_threshold: int = 3, recovery_seconds: float = 30.0) -> None:
        self.name = name
        self._clock = clock
        self._threshold = failure_threshold
        self._recovery_seconds = recovery_seconds
        self._failures = 0
        self._generation = 0
        self._opened_at: float | None = None
        self._probe_until = 0.0

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._clock.monotonic() >= self._opened_at + self._recovery_seconds else "open"

    def begin(self) -> int:
        """Lets a call begin and returns the generation to report its end with, or raises."""
        if self._opened_at is None:
            return self._generation
        now = self._clock.monotonic()
        wait = self._opened_at + self._recovery_seconds - now
        if wait <= 0 and now >= self._probe_until:
            # The lease: a probe that never reports frees its place after one more recovery time.
            self._probe_until = now + self._recovery_seconds
            return self._generation
        raise Unavailable(
            "Service temporarily unavailable",
            code="CIRCUIT_OPEN",
            details={"circuit": self.name},
            retry_after_seconds=max(wait, self._probe_until - now, 0.001) if wait <= 0 else wait,
        )

    def succeed(self, generation: int) -> None:
        """A call that began in `generation` went well."""
        if generation != self._generation:
            return
        self._failures = 0
        if self._opened_at is not None:
            self.close()

    def fail(self, generation: int) -> None:
        """A call that began in `generation` failed."""
        if generation != self._generation:
            return
        self._failures += 1
        if self._opened_at is not None or self._failures >= self._threshold:
            self.open()

    def give_up(self, generation: int) -> None:
        """A call that began in `generation` was cancelled: nothing is known, and a probe's place is free again."""
        if generation == self._generation:
            self._probe_until = 0.0

    def open(self) -> None:
        """Refuses calls from now on for the recovery time."""
        self._opened_at = self._clock.monotonic()
        self._probe_until = 0.0
        self._generation += 1

    def close(self) -> None:
        """Lets calls through again."""
        self._opened_at = None
        self._failures = 0
        self._probe_until = 0.0
        self._generation += 1

    def guard(self) -> AbstractAsyncContextManager[None]:
        """Guards one call; see the class."""
        return _Guard(self)


class _Guard(AbstractAsyncContextManager[None]):
    """One guarded call; an object of its own so that concurrent calls keep their generations apart."""

    __slots__ = ("_breaker", "_generation")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._generation = 0

    async def __aenter__(self) -> None:
        self._generation = self._breaker.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._breaker.succeed(self._generation)
        elif isinstance(error, _FAILURES) or (isinstance(error, Exception) and not isinstance(error, MeshError)):
            self._breaker.fail(self._generation)
        elif isinstance(error, MeshError):
            self._breaker.succeed(self._generation)
        else:
            self._breaker.give_up(self._generation)
