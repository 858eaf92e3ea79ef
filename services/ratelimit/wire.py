"""Messages to the model and back, pure."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import Invalid
from services.ratelimit.model.decisions import ALLOWED, Decision, tightest
from services.ratelimit.model.limits import Limit, Refund, Subject

# Of the decisions of one second most are alike to the millisecond, and building a message costs ten times a look-up.
_ALIKE_KEPT = 8192

# One process decides for everybody: no call may keep it longer than others can wait.
MOST_A_CALL = 1000
LONGEST_FIELD = 1024
# A call of no more bytes is within both bounds, as an empty subject takes two. Hardly a call needs a closer look, and
# this one costs a fiftieth of a decision.
_BYTES_WITHOUT_A_LOOK = 1024
_LISTS = ("subjects", "releases", "refunds")
_TEXTS = ("route_class", "user", "role", "api_key", "ip", "model", "hold")

Call = pb.DecideRequest | pb.RefundRequest | pb.RenewRequest | pb.ReleaseRequest


def check_size(request: Call) -> None:
    """Raises Invalid, naming field and bound, for more subjects or longer fields than the contract allows."""
    if request.ByteSize() <= _BYTES_WITHOUT_A_LOOK:
        return
    for name in _LISTS:
        entries = getattr(request, name, ())
        if len(entries) > MOST_A_CALL:
            raise Invalid(
                f"{name} must have at most {MOST_A_CALL} entries, not {len(entries)}", details={"field": name}
            )
        for one in entries:
            check_subject(one.subject if isinstance(one, pb.Refund) else one)


def check_subject(subject: pb.Subject) -> None:
    """Raises Invalid, naming field and bound, for a field that is longer than the contract allows."""
    if subject.ByteSize() <= LONGEST_FIELD:
        return
    for name in _TEXTS:
        if len(getattr(subject, name)) > LONGEST_FIELD:
            raise Invalid(f"{name} must have at most {LONGEST_FIELD} characters", details={"field": name})


def subjects_of(request: pb.DecideRequest | pb.RenewRequest | pb.ReleaseRequest) -> list[Subject]:
    """The subjects of a call; an absent cost is 1."""
    return [subject_of(one) for one in request.subjects]


def subject_of(one: pb.Subject) -> Subject:
    """One subject; an absent cost is 1."""
    return Subject(
        one.route_class,
        one.user,
        one.role,
        one.api_key,
        one.ip,
        one.model,
        one.cost if one.HasField("cost") else 1,
        one.hold,
    )


def refunds_of(request: pb.RefundRequest | pb.DecideRequest) -> list[Refund]:
    """The refunds of a call."""
    return [Refund(subject_of(one.subject), one.amount, one.age_ms * 1000) for one in request.refunds]


def response_of(decisions: Iterable[Decision]) -> pb.DecideResponse:
    """The answer to a call."""
    return pb.DecideResponse(decisions=[_message(one) for one in decisions])


def usage_of(classes: Iterable[str], decisions: Sequence[Decision]) -> pb.GetUsageResponse:
    """What is left under the rules of each class."""
    return pb.GetUsageResponse(
        classes=[
            pb.ClassUsage(route_class=name, rules=_message(one).rules)
            for name, one in zip(classes, decisions, strict=True)
        ],
        degraded=any(one.degraded for one in decisions),
    )


def _message(decision: Decision) -> pb.Decision:
    ask, verdict, degraded, generation = decision
    wait_us, slowest, levels, violated = verdict
    limits = ask.limits
    if len(limits) == 1:
        milliseconds: Sequence[int] = (levels[0], -(-levels[1] // 1000))
    else:
        milliseconds = tuple(-(-level // 1000) if index % 2 else level for index, level in enumerate(levels))
    if wait_us == ALLOWED:
        return _alike(limits, milliseconds, ALLOWED, tightest(ask, verdict), violated, degraded, generation)
    wait_ms = wait_us if wait_us < 0 else -(-wait_us // 1000)
    return _alike(limits, milliseconds, wait_ms, slowest, violated, degraded, generation)


@lru_cache(maxsize=_ALIKE_KEPT)
def _alike(  # noqa: PLR0917 - keywords would cost as much as the look-up
    limits: tuple[Limit, ...],
    levels: Sequence[int],
    wait_ms: int,
    tight: int,
    violated: int,
    degraded: bool,  # noqa: FBT001 - as above
    generation: int,
) -> pb.Decision:
    """The message of all decisions that look like this one; rules that only watch are not in it.

    Args:
        levels: as in `Verdict`, but in milliseconds.
        wait_ms: as in `Verdict`, but in milliseconds.
    """
    message = pb.Decision(
        allowed=wait_ms == ALLOWED,
        degraded=degraded,
        tightest=sum(not limit.shadow for limit in limits[:tight]),
        generation=generation,
        rules=[
            pb.RuleState(
                name=limit.rule,
                limit=limit.limit,
                remaining=max(0, levels[2 * index]),
                window_seconds=limit.window_seconds,
                reset_after_ms=levels[2 * index + 1],
                violated=bool(violated >> index & 1),
                concurrent=limit.concurrent,
            )
            for index, limit in enumerate(limits)
            if not limit.shadow
        ],
    )
    if wait_ms >= 0:
        message.retry_after_ms = wait_ms
    return message
