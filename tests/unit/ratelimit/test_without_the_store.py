"""What the shadow does while the store is away: shares of places, what a limit says for this case, and what is owed."""

import pytest

from services.ratelimit.memory import MemoryShadow
from services.ratelimit.model.counters import UNKNOWN
from services.ratelimit.model.decisions import ALLOWED, NEVER, Verdict
from services.ratelimit.model.errands import Action, Errand, hold_of
from services.ratelimit.model.limits import Algorithm, Ask, Limit, OnStoreFailure, limit_of
from services.ratelimit.ports import Answer
from tests.support.clock import FakeClock

SECOND = 1_000_000
YES = Verdict(ALLOWED, 0, (0, 0))


def places(count: int = 5, *, shadow: bool = False) -> Limit:
    return limit_of(rule="places", algorithm=Algorithm.CONCURRENCY, per=("user",), limit=count, shadow=shadow)


def counted(
    count: int = 10, *, algorithm: Algorithm = Algorithm.FIXED_WINDOW, without: str = "share", shadow: bool = False
) -> Limit:
    return limit_of(
        rule="counted",
        algorithm=algorithm,
        per=("user",),
        limit=count,
        window_us=60 * SECOND,
        on_store_failure=without,
        shadow=shadow,
    )


def hold(name: str, limit: Limit | None = None, action: Action = Action.TAKE) -> Ask:
    return Ask(("places",), (limit or places(),), 1, Errand(action, hold_of(name)))


def ask(*limits: Limit, cost: int = 1) -> Ask:
    return Ask(tuple(f"{limit.rule} {index}" for index, limit in enumerate(limits)), limits, cost)


def refund(limit: Limit, amount: int, age_us: int = 0) -> Ask:
    return ask(limit, cost=amount)._replace(errand=Errand(Action.REFUND, age_us=age_us))


def shadow_of(instances: int = 1, clock: FakeClock | None = None) -> MemoryShadow:
    return MemoryShadow(clock or FakeClock(), lambda: instances, cap=1000)


def admitted(shadow: MemoryShadow, *asks: Ask) -> int:
    return sum(shadow.decide([one])[0].allowed for one in asks)


@pytest.mark.parametrize(("instances", "share"), [(1, 5), (2, 2), (3, 1), (9, 1)])
def test_places_are_shared_among_instances(instances: int, share: int) -> None:
    """Each instance lets its share be held, one at least."""
    assert admitted(shadow_of(instances), *(hold(str(number)) for number in range(9))) == share


def test_what_the_store_held_is_known() -> None:
    """Four held there, one released there, one renewed there: two more without it."""
    shadow = shadow_of()
    shadow.record([hold(name) for name in "abcd"], Answer([YES] * 4, shadow.now_us))
    shadow.record([hold("a", action=Action.RELEASE), hold("b", action=Action.RENEW)], Answer([YES] * 2, shadow.now_us))
    denied = [Verdict(UNKNOWN, 0, (0, 0), 1), Verdict(NEVER, 0, ())]
    shadow.record([hold("e"), hold("f", action=Action.RENEW)], Answer(denied, shadow.now_us))
    assert admitted(shadow, *(hold(str(number)) for number in range(9))) == 2


def test_whoever_renews_is_believed_and_counts() -> None:
    """A hold that only the store knows: still held, and one place fewer for others."""
    shadow = shadow_of()
    assert shadow.decide([hold("theirs", action=Action.RENEW)])[0].allowed
    assert admitted(shadow, *(hold(str(number)) for number in range(9))) == 4


def test_places_end_with_their_lease() -> None:
    """Nobody is held longer than a lease, here as there."""
    clock = FakeClock()
    shadow = shadow_of(clock=clock)
    assert admitted(shadow, *(hold(str(number)) for number in range(6))) == 5
    clock.advance(10)
    assert admitted(shadow, hold("next")) == 1


def test_a_hold_that_came_and_went_is_only_a_release() -> None:
    """Taken and released without the store: no debt, and a release in case that it knew."""
    shadow = shadow_of()
    shadow.owe([hold("a"), hold("b"), hold("a", action=Action.RELEASE)])
    debts = shadow.take_debts(10)
    assert [debt.state[1:] for debt in debts] == [hold_of("b")]
    assert [one.errand for one in shadow.take_errands(10)] == [Errand(Action.RELEASE, hold_of("a"))]
    assert not shadow.owes_errands


def test_a_release_is_forgotten_when_the_lease_has_ended_it() -> None:
    """After ten seconds there is nothing left to release."""
    clock = FakeClock()
    shadow = shadow_of(clock=clock)
    shadow.owe([hold("a", action=Action.RELEASE)])
    clock.advance(10)
    assert shadow.take_errands(10) == []


def test_a_refund_grows_older_while_it_waits() -> None:
    """Told later it is as old as it is then."""
    clock = FakeClock()
    shadow = shadow_of(clock=clock)
    shadow.owe([refund(counted(), 3, age_us=SECOND)])
    clock.advance(2)
    found = shadow.take_errands(10)
    assert [(one.cost, one.errand) for one in found] == [(3, Errand(Action.REFUND, age_us=3 * SECOND))]


@pytest.mark.parametrize("algorithm", [one for one in Algorithm if one is not Algorithm.CONCURRENCY])
def test_what_was_never_told_is_never_given_back(algorithm: Algorithm) -> None:
    """Of five owed three come back: two are told. Of three more the store gives back one, which it had counted."""
    limit = counted(algorithm=algorithm)
    shadow = shadow_of()
    shadow.owe([ask(limit, cost=5), refund(limit, 3)])
    assert not shadow.owes_errands
    shadow.owe([refund(limit, 3)])
    assert [one.cost for one in shadow.take_errands(10)] == [1]
    assert shadow.take_debts(10) == []


def test_a_limit_that_denies_without_the_store() -> None:
    """Nobody passes and nothing is counted; nobody can say until when."""
    denying, plain = counted(without="deny"), counted(5)
    found = shadow_of()
    verdict = found.decide([ask(plain, denying)])[0]
    assert (verdict.wait_us, verdict.slowest, verdict.violated) == (UNKNOWN, 1, 0b10)
    assert verdict.levels[0] == 5
    assert found.decide([ask(plain, cost=0)])[0].levels[0] == 5


def test_a_limit_that_allows_without_the_store() -> None:
    """Everybody passes, however much it costs, and all of it counts when the store is back."""
    allowing = counted(2, without="allow", algorithm=Algorithm.TOKEN_BUCKET)
    shadow = shadow_of(3)
    found = shadow.decide([ask(allowing, cost=cost) for cost in (1, 1, 1, 900_000)])
    assert [(one.allowed, one.violated) for one in found] == [(True, 0)] * 4
    assert all(one.levels[0] <= 2 for one in found)
    shadow.owe([ask(allowing)] * 3)
    assert shadow.take_debts(10)[0].state[1] == 3 * allowing.unit


def test_beside_one_that_allows_others_still_deny() -> None:
    """Each limit speaks for itself."""
    both = ask(counted(2, without="allow"), counted(3))
    assert admitted(shadow_of(), *[both] * 9) == 3


@pytest.mark.parametrize("without", list(OnStoreFailure))
def test_a_limit_that_watches_denies_nobody_without_the_store(without: str) -> None:
    """Whatever it would do then."""
    assert admitted(shadow_of(), *[ask(counted(2, without=without, shadow=True))] * 5) == 5
