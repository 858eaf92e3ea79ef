"""The gRPC face of the rules in force."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mesh.ratelimit.v1 import ratelimit_pb2 as pb
from mesh.ratelimit.v1 import ratelimit_pb2_grpc as pb_grpc

from services.ratelimit.rules.force import RulesInForce


class RulesFace(pb_grpc.RatelimitServiceServicer):
    """The methods of `mesh.ratelimit.v1.RatelimitService` about rules."""

    def __init__(self, rules: RulesInForce) -> None:
        self._rules = rules

    async def GetRules(self, request: pb.GetRulesRequest, context: Any) -> pb.GetRulesResponse:  # noqa: N802 - the contract's name
        del request, context
        rules, book = self._rules, self._rules.book
        return pb.GetRulesResponse(
            source=book.source, generation=book.generation, origin=rules.origin, problem=rules.problem
        )

    async def PutRules(self, request: pb.PutRulesRequest, context: Any) -> pb.PutRulesResponse:  # noqa: N802
        del context
        return pb.PutRulesResponse(generation=await self._rules.put(request.source, request.expected_generation))

    async def WatchRules(  # noqa: N802
        self, request: pb.WatchRulesRequest, context: Any
    ) -> AsyncGenerator[pb.WatchRulesResponse]:
        del request, context
        async with aclosing(self._rules.generations()) as generations:
            async for generation in generations:
                yield pb.WatchRulesResponse(generation=generation)
