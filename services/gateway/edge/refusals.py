"""What a caller is told whom a decision refuses."""

from mesh.ratelimit.v1 import ratelimit_pb2

from services.gateway.edge.errors import OverLimit

# Longer than any wait that can be told.
_NEVER_MS = 2**64


def refusal(*decisions: ratelimit_pb2.Decision) -> OverLimit:
    """The answer to a request that was refused by at least one of its decisions."""
    denied = [decision for decision in decisions if not decision.allowed]
    # Whoever can tell no time outlasts the others: the request would not pass at theirs.
    slowest = max(denied, key=lambda one: one.retry_after_ms if one.HasField("retry_after_ms") else _NEVER_MS)
    seconds = slowest.retry_after_ms / 1000 if slowest.HasField("retry_after_ms") else None
    if not slowest.rules:
        return OverLimit("Rate limit exceeded", retry_after_seconds=seconds)
    rule = slowest.rules[slowest.tightest]
    if rule.concurrent:
        return too_many(rule.name, seconds)
    return OverLimit("Rate limit exceeded", details={"rule": rule.name}, retry_after_seconds=seconds)


def too_many(rule: str, seconds: float | None = None) -> OverLimit:
    """The answer to a caller that has so many under way."""
    return OverLimit("Too many requests at the same time", details={"rule": rule}, retry_after_seconds=seconds)


def beyond(decision: ratelimit_pb2.Decision, needed: int) -> OverLimit | None:
    """The answer to a request that needs more tokens than ever pass, whenever it comes; None when it may pass later."""
    for rule in decision.rules:
        if needed > rule.limit:
            return OverLimit(
                f"It needs {needed} tokens, and at most {rule.limit} pass in {rule.window_seconds} seconds: it cannot "
                "pass whole, ask for less at a time",
                code="TOKENS_BEYOND_LIMIT",
                details={"rule": rule.name, "limit": str(rule.limit), "needed": str(needed)},
            )
    return None
