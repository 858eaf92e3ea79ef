"""The gRPC face of `Limiter`."""

from collections.abc import Sequence
from typing import Any

from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import MeshError
from services.ratelimit.operations import Limiter
from services.ratelimit.rpc.rules import RulesFace
from services.ratelimit.rules.force import RulesInForce
from services.ratelimit.wire import response_of, subjects_of

DECIDE = "/mesh.ratelimit.v1.RatelimitService/Decide"


class RatelimitServicer(RulesFace):
    """Answers `mesh.ratelimit.v1.RatelimitService`."""

    def __init__(self, limiter: Limiter, rules: RulesInForce) -> None:
        super().__init__(rules)
        self._limiter = limiter

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:  # noqa: N802 - the contract's name
        del context
        return response_of(await self._limiter.decide(subjects_of(request)))

    async def decide_frame(self, requests: Sequence[pb.DecideRequest]) -> list[pb.DecideResponse | MeshError]:
        """Answers all Decide calls of a lane frame with one call to the store."""
        results = await self._limiter.decide_calls([subjects_of(request) for request in requests])
        return [one if isinstance(one, MeshError) else response_of(one) for one in results]

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:  # noqa: N802
        del request, context
        tally = self._limiter.tally
        return pb.GetStatusResponse(
            store_connected=self._limiter.store_ready,
            decisions=tally.decisions,
            denied=tally.denied,
            degraded_decisions=tally.degraded,
        )
