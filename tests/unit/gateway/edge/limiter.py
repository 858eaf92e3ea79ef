"""The ratelimit service as its contract describes it, from memory and on a test's own clock."""
# ruff: noqa: N802 - the contract names its methods so

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import MeshError

LEASE_SECONDS = 10


def decision(**fields: Any) -> pb.Decision:
    """An allowed decision under one rule, but for the fields given."""
    rule: dict[str, Any] = {
        "name": "v1_chat",
        "limit": 10,
        "remaining": 9,
        "window_seconds": 60,
        "reset_after_ms": 6001,
    }
    defaults: dict[str, Any] = {"allowed": True, "rules": [rule], "tightest": 0}
    return pb.Decision(**defaults | fields)


class Limiter:
    """Answers with a prepared decision, or fails.

    Attributes:
        places: how many may be held at the same time; None: there is no such rule.
        tokens: how many are left to everybody, of `most_tokens` a minute; None: they are not counted.
        away: what every call but Decide raises.
    """

    def __init__(self) -> None:
        self.asked: list[pb.Subject] = []
        self.answer: pb.Decision | MeshError = decision()
        self.places: int | None = None
        self.tokens: int | None = None
        self.most_tokens = 10_000
        self.away: MeshError | None = None
        self.held: set[str] = set()
        self.released: list[str] = []
        self.releases = 0
        self.renewed: list[list[str]] = []
        self.refunded: list[tuple[str, int]] = []
        self.generations: asyncio.Queue[int | None] = asyncio.Queue()

    async def Decide(self, request: pb.DecideRequest, **_: Any) -> pb.DecideResponse:
        self.asked.extend(request.subjects)
        if isinstance(self.answer, MeshError):
            raise self.answer
        self._release(request.releases)
        self._refund(request.refunds)
        return pb.DecideResponse(decisions=[self._decide(subject) for subject in request.subjects])

    def _decide(self, subject: pb.Subject) -> pb.Decision:
        if subject.route_class == "openai.tokens":
            return self._decide_tokens(subject.cost)
        decided = pb.Decision()
        decided.CopyFrom(self.answer)  # type: ignore[arg-type]  # an error was raised before
        if self.places is None or not decided.allowed:
            return decided
        violated = len(self.held) >= self.places
        if violated:
            decided.ClearField("retry_after_ms")
            decided.allowed, decided.tightest = False, len(decided.rules)
        else:
            self.held.add(subject.hold)
        left = self.places - len(self.held)
        decided.rules.add(
            name="in_flight",
            limit=self.places,
            remaining=left,
            window_seconds=LEASE_SECONDS,
            violated=violated,
            concurrent=True,
        )
        return decided

    def _decide_tokens(self, cost: int) -> pb.Decision:
        left = self.tokens or 0
        rule = {"name": "openai_tokens", "limit": self.most_tokens, "window_seconds": 60, "reset_after_ms": 30_000}
        if cost > left:
            rules = [pb.RuleState(remaining=left, violated=True, **rule)]  # type: ignore[arg-type]  # of two types
            return pb.Decision(rules=rules, retry_after_ms=20_000)
        self.tokens = left - cost
        return pb.Decision(allowed=True, rules=[pb.RuleState(remaining=self.tokens, **rule)])  # type: ignore[arg-type]

    async def Release(self, request: pb.ReleaseRequest, **_: Any) -> pb.ReleaseResponse:
        self._raise_if_away()
        self.releases += 1
        self._release(request.subjects)
        return pb.ReleaseResponse()

    def _release(self, subjects: Iterable[pb.Subject]) -> None:
        self.released += [subject.hold for subject in subjects]
        self.held.difference_update(self.released)

    async def Renew(self, request: pb.RenewRequest, **_: Any) -> pb.RenewResponse:
        self._raise_if_away()
        holds = [subject.hold for subject in request.subjects]
        self.renewed.append(holds)
        return pb.RenewResponse(held=[hold in self.held for hold in holds])

    async def Refund(self, request: pb.RefundRequest, **_: Any) -> pb.RefundResponse:
        self._raise_if_away()
        self._refund(request.refunds)
        return pb.RefundResponse()

    def _refund(self, refunds: Iterable[pb.Refund]) -> None:
        for refund in refunds:
            self.refunded.append((refund.subject.route_class, refund.amount))
            if refund.subject.route_class == "openai.tokens" and self.tokens is not None:
                self.tokens += refund.amount

    async def GetUsage(self, request: pb.GetUsageRequest, **_: Any) -> pb.GetUsageResponse:
        self._raise_if_away()
        names = ["v1.chat"] + ["openai.tokens"] * (self.tokens is not None)
        return pb.GetUsageResponse(classes=[pb.ClassUsage(route_class=name) for name in names])

    async def WatchRules(self, request: pb.WatchRulesRequest, **_: Any) -> AsyncIterator[pb.WatchRulesResponse]:
        while (generation := await self.generations.get()) is not None:
            yield pb.WatchRulesResponse(generation=generation)

    def _raise_if_away(self) -> None:
        if self.away is not None:
            raise self.away
