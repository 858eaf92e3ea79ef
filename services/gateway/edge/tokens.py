"""What a request has reserved of its user's tokens, and what it has used of that."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mesh.ratelimit.v1 import ratelimit_pb2

# A subject whose cost was taken, and the (monotonic) time at which that was asked for.
Taken = tuple[ratelimit_pb2.Subject, float]
Reserve = Callable[[int], Awaitable[Taken | None]]


@dataclass(slots=True, kw_only=True)
class Reservation:
    """Tokens of one request.

    Attributes:
        taken: under what tokens were taken; the costs are the reservation.
        decision: the newest about tokens; None where no limit applies to this user's.
        used: how many are known to be used so far; the rest goes back when the request ends.
        refused: more was asked for than may be had, so the request takes nothing at all.
        reserve: takes more; None when nobody counts now. Raises Exhausted when they may not be had.
    """

    taken: list[Taken]
    decision: ratelimit_pb2.Decision | None
    refused: bool
    reserve: Reserve
    used: int = 0

    async def need(self, tokens: int) -> None:
        """So many will be used at most. Raises Exhausted when they may not be had."""
        missing = tokens - sum(subject.cost for subject, _ in self.taken)
        if missing > 0:
            taken = await self.reserve(missing)
            if taken is not None:
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
