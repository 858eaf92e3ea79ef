"""Messages to the model and back, pure."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from services.ratelimit.model.decisions import ALLOWED, NEVER, Decision, tightest
from services.ratelimit.model.limits import Limit, Subject

# Of the decisions of one second most are alike to the millisecond, and building a message costs ten times a look-up.
_ALIKE_KEPT = 8192


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
    return pb.DecideResponse(decisions=[_message(one) for one in decisions])


def _message(decision: Decision) -> pb.Decision:
    ask, verdict, degraded = decision
    wait_us, slowest, levels = verdict
    limits = ask.limits
    if len(limits) == 1:
        milliseconds: Sequence[int] = (levels[0], -(-levels[1] // 1000))
    else:
        milliseconds = tuple(-(-level // 1000) if index % 2 else level for index, level in enumerate(levels))
    if wait_us == ALLOWED:
        return _alike(limits, milliseconds, ALLOWED, tightest(ask, verdict), 0, degraded)
    wait_ms = NEVER if wait_us == NEVER else -(-wait_us // 1000)
    return _alike(limits, milliseconds, wait_ms, slowest, ask.cost or 1, degraded)


@lru_cache(maxsize=_ALIKE_KEPT)
def _alike(  # noqa: PLR0917 - keywords would cost as much as the look-up
    limits: tuple[Limit, ...],
    levels: Sequence[int],
    wait_ms: int,
    tight: int,
    needed: int,
    degraded: bool,  # noqa: FBT001 - as above
) -> pb.Decision:
    """The message of all decisions that look like this one.

    Args:
        levels: as in `Verdict`, but in milliseconds.
        wait_ms: as in `Verdict`, but in milliseconds.
        needed: what a denied request would have taken, 0 when it was allowed.
    """
    message = pb.Decision(
        allowed=wait_ms == ALLOWED,
        degraded=degraded,
        tightest=tight,
        rules=[
            pb.RuleState(
                name=limit.rule,
                limit=limit.limit,
                remaining=levels[2 * index],
                window_seconds=limit.window_seconds,
                reset_after_ms=levels[2 * index + 1],
                # Nothing was taken, so what is too little now was too little then.
                violated=levels[2 * index] < needed,
            )
            for index, limit in enumerate(limits)
        ],
    )
    if wait_ms >= 0:
        message.retry_after_ms = wait_ms
    return message
