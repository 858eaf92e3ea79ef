"""Messages: what arrives as what, and what a decision looks like outside."""

import pytest
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import Invalid
from services.ratelimit.model.decisions import ALLOWED, NEVER, Decision, Verdict
from services.ratelimit.model.limits import Algorithm, Ask, Limit, Subject, limit_of
from services.ratelimit.wire import Call, check_size, response_of, subjects_of

ANNA = pb.Subject(route_class="v1.chat", user="anna")
LONG = pb.Subject(route_class="v1.chat", user="x" * 1025)


def limit(name: str, count: int) -> Limit:
    return limit_of(rule=name, algorithm=Algorithm.SLIDING_WINDOW, per=("user",), limit=count, window_us=60_000_000)


def message(verdict: Verdict, cost: int = 1, degraded: bool = False) -> pb.Decision:
    limits = (limit("wide", 100), limit("narrow", 10))
    ask = Ask(("a", "b"), limits, cost)
    return response_of([Decision(ask, verdict, degraded)]).decisions[0]


def test_an_absent_cost_is_one_and_zero_is_zero() -> None:
    """Presence matters: 0 checks, absent takes one."""
    request = pb.DecideRequest(
        subjects=[
            pb.Subject(route_class="v1.chat", user="u", role="admin", api_key="k", ip="::1", model="m"),
            pb.Subject(route_class="v1.chat", cost=0),
        ]
    )
    assert subjects_of(request) == [
        Subject("v1.chat", "u", "admin", "k", "::1", "m", 1),
        Subject("v1.chat", cost=0),
    ]


def test_an_allowed_decision_shows_the_smallest_share() -> None:
    """The tightest of what passes is the rule with the least left, and there is no hint."""
    found = message(Verdict(ALLOWED, 0, (99, 60_000_000, 4, 1_500_001)))
    assert (found.allowed, found.degraded, found.tightest) == (True, False, 1)
    assert not found.HasField("retry_after_ms")
    assert [one.violated for one in found.rules] == [False, False]
    narrow = found.rules[1]
    assert (narrow.name, narrow.limit, narrow.remaining) == ("narrow", 10, 4)
    assert (narrow.window_seconds, narrow.reset_after_ms) == (60, 1501)


def test_a_denied_decision_shows_the_slowest_and_rounds_up() -> None:
    """A hint is never too short and never 0."""
    found = message(Verdict(1, 1, (50, 1, 1, 1), 0b10), cost=2, degraded=True)
    assert (found.allowed, found.degraded, found.tightest, found.retry_after_ms) == (False, True, 1, 1)
    assert [one.violated for one in found.rules] == [False, True]


def test_what_can_never_pass_has_no_hint() -> None:
    """A cost above a limit: denied, violated, and no time to come back."""
    found = message(Verdict(NEVER, 1, (100, 0, 10, 0), 0b10), cost=11)
    assert not found.HasField("retry_after_ms")
    assert [one.violated for one in found.rules] == [False, True]


def test_no_rule_is_allowed() -> None:
    """A subject that falls under no rule passes, with no rule to show."""
    found = response_of([Decision(Ask((), (), 1), Verdict(ALLOWED, 0, ()), False)]).decisions[0]
    assert found.allowed
    assert len(found.rules) == 0


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.DecideRequest(subjects=[ANNA] * 1001), "subjects must have at most 1000"),
        (pb.DecideRequest(subjects=[ANNA], releases=[pb.Subject()] * 1001), "releases must have at most 1000"),
        (pb.DecideRequest(refunds=[pb.Refund()] * 1001), "refunds must have at most 1000"),
        (pb.RefundRequest(refunds=[pb.Refund(subject=ANNA), pb.Refund(subject=LONG)]), "user must have at most 1024"),
        (pb.RenewRequest(subjects=[ANNA, LONG]), "user must have at most 1024"),
        (pb.ReleaseRequest(subjects=[pb.Subject(hold="x" * 1025)]), "hold must have at most 1024"),
        (pb.DecideRequest(releases=[pb.Subject(route_class="x" * 1025)]), "route_class must have at most 1024"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_too_large_is_refused_by_name(request_: Call, words: str) -> None:
    """The field, and how much of it there may be."""
    with pytest.raises(Invalid, match=words) as caught:
        check_size(request_)
    assert words.startswith(caught.value.details["field"])


def test_what_just_fits_is_taken() -> None:
    """A thousand of each, and a field of 1024 characters, whatever they take in bytes."""
    full = pb.Subject(user="\u20ac" * 1024, ip="x" * 1024)
    check_size(pb.DecideRequest(subjects=[full] * 1000, releases=[ANNA] * 1000, refunds=[pb.Refund(subject=full)]))
