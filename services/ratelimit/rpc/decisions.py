"""The gRPC face of `Limiter`."""

import asyncio
from collections.abc import Sequence
from typing import Any

from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import Invalid, MeshError
from services.ratelimit.operations import Limiter
from services.ratelimit.rpc.rules import RulesFace
from services.ratelimit.rules.force import RulesInForce
from services.ratelimit.wire import (
    check_size,
    check_subject,
    refunds_of,
    response_of,
    subject_of,
    subjects_of,
    usage_of,
)

DECIDE = "/mesh.ratelimit.v1.RatelimitService/Decide"

# A frame of the store is not split, and rules may have been put for many more classes than belong into one.
_CLASSES_A_FRAME = 64


class RatelimitServicer(RulesFace):
    """Answers `mesh.ratelimit.v1.RatelimitService`."""

    def __init__(self, limiter: Limiter, rules: RulesInForce) -> None:
        super().__init__(rules)
        self._limiter = limiter

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:  # noqa: N802 - the contract's name
        del context
        [answer] = await self.decide_frame([request])
        if isinstance(answer, MeshError):
            raise answer
        return answer

    async def decide_frame(self, requests: Sequence[pb.DecideRequest]) -> list[pb.DecideResponse | MeshError]:
        """Answers all Decide calls of a lane frame with one call to the store, but for those that are too large."""
        refused = {at: error for at, request in enumerate(requests) if (error := _excess(request)) is not None}
        if not refused:
            return await self._decide(requests)
        decided = iter(await self._decide([request for at, request in enumerate(requests) if at not in refused]))
        return [refused[at] if at in refused else next(decided) for at in range(len(requests))]

    async def _decide(self, requests: Sequence[pb.DecideRequest]) -> list[pb.DecideResponse | MeshError]:
        deciding = self._limiter.decide_calls([subjects_of(request) for request in requests])
        ended = [subject_of(one) for request in requests for one in request.releases]
        refunds = [refund for request in requests for refund in refunds_of(request)]
        if ended or refunds:
            # What begins first reaches the store first, and in the same frame.
            async with asyncio.TaskGroup() as group:
                group.create_task(self._limiter.give_back(ended, refunds))
                decided = group.create_task(deciding)
            results = decided.result()
        else:
            results = await deciding
        return [one if isinstance(one, MeshError) else response_of(one) for one in results]

    async def Refund(self, request: pb.RefundRequest, context: Any) -> pb.RefundResponse:  # noqa: N802
        del context
        check_size(request)
        await self._limiter.refund(refunds_of(request))
        return pb.RefundResponse()

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:  # noqa: N802
        del context
        check_size(request)
        return pb.RenewResponse(held=await self._limiter.renew(subjects_of(request)))

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseResponse:  # noqa: N802
        del context
        check_size(request)
        await self._limiter.release(subjects_of(request))
        return pb.ReleaseResponse()

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:  # noqa: N802
        del context
        check_subject(request.subject)
        subject = subject_of(request.subject)
        classes = [subject.route_class] if subject.route_class else list(self._limiter.book.classes)
        frames = [classes[begin : begin + _CLASSES_A_FRAME] for begin in range(0, len(classes), _CLASSES_A_FRAME)]
        return usage_of(classes, [one for frame in frames for one in await self._limiter.usage(subject, frame)])

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:  # noqa: N802
        del request, context
        tally = self._limiter.tally
        return pb.GetStatusResponse(
            store_connected=self._limiter.store_ready,
            decisions=tally.decisions,
            denied=tally.denied,
            degraded_decisions=tally.degraded,
        )


def _excess(request: pb.DecideRequest) -> Invalid | None:
    try:
        check_size(request)
    except Invalid as error:
        return error
    return None
