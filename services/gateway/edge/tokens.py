"""What a request has reserved of its user's tokens, and what it has used of that."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mesh.ratelimit.v1 import ratelimit_pb2

# A subject whose cost was taken, and the (monotonic) time at which that was asked for.
Taken = tuple[ratelimit_pb2.Subject, float]
# How many to take, and how many the request needs in all.
Reserve = Callable[[int, int], Awaitable[Taken | None]]


@dataclass(slots=True, kw_only=True)
class Reservation:
    """Tokens of one request.

    Attributes:
        taken: under what tokens were taken; the costs are the reservation.
        decision: the newest about tokens; None where no limit applies to this user's.
        used: how many are known to be used so far; the rest goes back when the request ends.
        refused: more was asked for than may be had, so the request takes nothing at all.
        reserve: takes more, or as much of it as can be taken at once; None when nobody counts now. Raises Exhausted
            when they may not be had.
    """

    reserve: Reserve
    taken: list[Taken] = field(default_factory=list)
    decision: ratelimit_pb2.Decision | None = None
    refused: bool = False
    used: int = 0

    async def need(self, tokens: int) -> None:
        """So many will be used at most. Raises Exhausted when they may not be had."""
        while (missing := tokens - sum(subject.cost for subject, _ in self.taken)) > 0:
            taken = await self.reserve(missing, tokens)
            if taken is None:
                return
            self.taken.append(taken)

    def unused(self, used: int) -> list[tuple[Taken, int]]:
        """What goes back when so many were used: how much of the cost of each that was taken."""
        left, back = used, []
        for taken in self.taken:
            cost = taken[0].cost
            kept = min(left, cost)
            left -= kept
            if kept < cost:
                back.append((taken, cost - kept))
        return back
