"""What a request has reserved of its user's tokens, and what it has used of that."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mesh.ratelimit.v1 import ratelimit_pb2

Reserve = Callable[[int], Awaitable[ratelimit_pb2.Subject | None]]


@dataclass(slots=True, kw_only=True)
class Reservation:
    """Tokens of one request; without a limit on them it takes and asks nothing.

    Attributes:
        taken: the subjects under which tokens were taken; their costs are the reservation.
        decision: the newest about tokens; None where no limit applies to them.
        used: how many are known to be used so far; the rest goes back when the request ends.
        refused: more was asked for than may be had, so the request takes nothing at all.
        reserve: takes more; None when nobody counts now. Raises Exhausted when they may not be had.
    """

    taken: list[ratelimit_pb2.Subject] = field(default_factory=list)
    decision: ratelimit_pb2.Decision | None = None
    used: int = 0
    refused: bool = False
    reserve: Reserve | None = None

    async def need(self, tokens: int) -> None:
        """So many will be used at most. Raises Exhausted when they may not be had."""
        missing = tokens - sum(subject.cost for subject in self.taken)
        if missing > 0 and self.reserve is not None:
            subject = await self.reserve(missing)
            if subject is not None:
                self.taken.append(subject)

    def unused(self, used: int) -> list[tuple[ratelimit_pb2.Subject, int]]:
        """What goes back when so many were used: subjects as they were decided, and how much of the cost of each."""
        left, back = used, []
        for subject in self.taken:
            kept = min(left, subject.cost)
            left -= kept
            if kept < subject.cost:
                back.append((subject, subject.cost - kept))
        return back
