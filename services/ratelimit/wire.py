"""Messages to the model and back, pure."""

from collections.abc import Iterable

from mesh.ratelimit.v1 import ratelimit_pb2 as pb
from services.ratelimit.model.decisions import NEVER, Decision, tightest
from services.ratelimit.model.limits import Subject


def subjects_of(request: pb.DecideRequest) -> list[Subject]:
    """The subjects of a call; an absent cost is 1."""
    return [
        Subject(
            one.route_class,
            one.user,
            one.role,
            one.api_key,
            one.ip,
            one.model,
            one.cost if one.HasField("cost") else 1,
        )
        for one in request.subjects
    ]


def response_of(decisions: Iterable[Decision]) -> pb.DecideResponse:
    """The answer to a call."""
    return pb.DecideResponse(decisions=[_decision(one) for one in decisions])


def _decision(decision: Decision) -> pb.Decision:
    ask, verdict, degraded = decision
    denied = not verdict.allowed
    needed = ask.cost or 1
    levels = verdict.levels
    message = pb.Decision(
        allowed=not denied,
        degraded=degraded,
        tightest=tightest(ask, verdict),
        rules=[
            pb.RuleState(
                name=limit.rule,
                limit=limit.limit,
                remaining=levels[2 * index],
                window_seconds=limit.window_seconds,
                reset_after_ms=_milliseconds(levels[2 * index + 1]),
                # Nothing was taken, so what is too little now was too little then.
                violated=denied and levels[2 * index] < needed,
            )
            for index, limit in enumerate(ask.limits)
        ],
    )
    if denied and verdict.wait_us != NEVER:
        message.retry_after_ms = _milliseconds(verdict.wait_us)
    return message


def _milliseconds(us: int) -> int:
    return -(-us // 1000)
