"""The ratelimit service as its contract describes it, for the routes about rules; from memory."""
# ruff: noqa: N802 - the contract names its methods so

from typing import Any

import yaml
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import Conflict, Invalid

RULES = """\
version: 1
classes:
  v1.chat:
    - { name: minute, algorithm: sliding_window, per: [user], limit: { default: 10, admin: 2_000 }, window: 1m }
    - &flight { name: flight, algorithm: concurrency, per: user, limit: 5, lease: 10s, shadow: true }
  openai.chat:
    - *flight
  v1.default: v1.chat
overrides:
  user:
    42: { minute: unlimited }
"""


class FakeRatelimit:
    """Rules that have classes are right; everybody has used one of each limit."""

    def __init__(self) -> None:
        self.source, self.generation, self.origin, self.problem = RULES, 255, "file", ""
        self.asked: list[pb.Subject] = []

    async def GetRules(self, request: pb.GetRulesRequest, **_: Any) -> pb.GetRulesResponse:
        return pb.GetRulesResponse(
            source=self.source, generation=self.generation, origin=self.origin, problem=self.problem
        )

    async def PutRules(self, request: pb.PutRulesRequest, **_: Any) -> pb.PutRulesResponse:
        if request.expected_generation not in {0, self.generation}:
            raise Conflict("The rules have changed since they were read", code="RULES_CHANGED")
        try:
            found = yaml.safe_load(request.source)
        except (yaml.YAMLError, ValueError):
            found = None
        if not isinstance(found, dict) or not found.get("classes"):
            reason = "the file lacks 'classes'"
            raise Invalid(f"rules:1: {reason}", code="BAD_RULES", details={"line": "1", "reason": reason})
        self.source, self.origin = request.source, "api"
        self.generation += 1
        return pb.PutRulesResponse(generation=self.generation)

    async def GetUsage(self, request: pb.GetUsageRequest, **_: Any) -> pb.GetUsageResponse:
        self.asked.append(request.subject)
        name = request.subject.route_class
        if name not in {"", "v1.chat"}:
            raise Invalid(f"Unknown route class {name!r}", details={"field": "route_class"})
        rule = pb.RuleState(name="minute", limit=10, remaining=9, window_seconds=60, reset_after_ms=59_001)
        flight = pb.RuleState(name="flight", limit=5, remaining=4, window_seconds=10, concurrent=True)
        return pb.GetUsageResponse(classes=[pb.ClassUsage(route_class="v1.chat", rules=[rule, flight])])
