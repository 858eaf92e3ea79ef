"""What a limit may say besides its number: rules that watch, denied hits that count; and what is given back."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ratelimit.model.decisions import ALLOWED
from services.ratelimit.model.errands import Action, Errand
from services.ratelimit.model.limits import Algorithm, Ask, Limit, limit_of
from tests.contract.ratelimit.counters import START_US, InMemory, InRedis, SettableCounters
from tests.contract.ratelimit.oracle import Oracle

SECOND = 1_000_000
MINUTE = 60 * SECOND


def limited(
    algorithm: Algorithm, count: int = 10, *, exact: bool = True, shadow: bool = False, counts_denied: bool = False
) -> Limit:
    return limit_of(
        rule=f"{algorithm}{exact}{shadow}",
        algorithm=algorithm,
        per=("user",),
        limit=count,
        window_us=MINUTE,
        exact=exact,
        shadow=shadow,
        counts_denied=counts_denied,
    )


SLIDING, FIXED, BUCKET = Algorithm.SLIDING_WINDOW, Algorithm.FIXED_WINDOW, Algorithm.TOKEN_BUCKET
COUNTING = [limited(SLIDING), limited(SLIDING, exact=False), limited(FIXED), limited(BUCKET)]
ALL = pytest.mark.parametrize("limit", COUNTING, ids=["sliding", "ring", "fixed", "bucket"])


def ask(*limits: Limit, cost: int = 1) -> Ask:
    return Ask(tuple(limit.rule for limit in limits), limits, cost)


def refund(limit: Limit, amount: int, age_us: int = 0) -> Ask:
    return Ask((limit.rule,), (limit,), amount, Errand(Action.REFUND, age_us=age_us))


def remaining(counters: SettableCounters, limit: Limit) -> int:
    return counters.decide(ask(limit, cost=0))[0].levels[0]


@ALL
def test_a_refund_makes_room_at_once(counters: SettableCounters, limit: Limit) -> None:
    """Of ten that were reserved seven come back, in the same frame; the rest is as if three had been taken."""
    taken, denied, back, again = counters.decide(ask(limit, cost=10), ask(limit), refund(limit, 7), ask(limit, cost=7))
    assert [one.allowed for one in (taken, denied, back, again)] == [True, False, True, True]
    assert (back.levels[0], again.levels[0]) == (7, 0)


@ALL
def test_a_refund_never_goes_below_nothing_taken(counters: SettableCounters, limit: Limit) -> None:
    """More than was taken leaves an empty counter, and nothing in credit."""
    counters.decide(ask(limit, cost=2), refund(limit, 9), refund(limit, 9))
    assert remaining(counters, limit) == 10
    assert [one.allowed for one in counters.decide(ask(limit, cost=10), ask(limit))] == [True, False]


@ALL
def test_a_refund_of_what_is_over_gives_nothing(counters: SettableCounters, limit: Limit) -> None:
    """Ten of a window ago are free by themselves; those of now belong to others."""
    counters.decide(ask(limit, cost=10))
    counters.now_us += 2 * MINUTE
    counters.decide(ask(limit, cost=10), refund(limit, 8, age_us=2 * MINUTE))
    assert remaining(counters, limit) == 0


def test_a_bucket_gives_back_what_it_has_not_regained(counters: SettableCounters) -> None:
    """Half a window later five of eight have come back by themselves; a refund brings the other three."""
    limit = limited(BUCKET)
    counters.decide(ask(limit, cost=10))
    counters.now_us += MINUTE // 2
    counters.decide(ask(limit, cost=5), refund(limit, 8, age_us=MINUTE // 2))
    assert remaining(counters, limit) == 3


def test_a_log_gives_back_its_oldest_hits(counters: SettableCounters) -> None:
    """What remains counts for as long as the newest hit, so no later window holds too much."""
    limit = limited(SLIDING)
    counters.decide(ask(limit, cost=6))
    counters.now_us += SECOND
    counters.decide(ask(limit, cost=4), refund(limit, 4, age_us=SECOND))
    counters.now_us += MINUTE - SECOND
    assert remaining(counters, limit) == 6
    counters.now_us += SECOND
    assert remaining(counters, limit) == 10


@pytest.mark.redis
@ALL
def test_a_refund_of_everything_leaves_no_key(in_redis: InRedis, limit: Limit) -> None:
    """An empty counter takes no room; a hint after a refund is still exact."""
    in_redis.decide(ask(limit, cost=3), refund(limit, 3))
    assert in_redis.client.exists(limit.rule) == 0


def test_a_rule_that_watches_denies_nobody(counters: SettableCounters) -> None:
    """Over its limit the request passes and is marked; it counts as if the rule were in force."""
    watching, real = limited(FIXED, 2, shadow=True), limited(SLIDING, 4)
    found = counters.decide(*[ask(watching, real)] * 5)
    assert [(one.allowed, one.violated) for one in found] == [
        (True, 0b00),
        (True, 0b00),
        (True, 0b01),
        (True, 0b01),
        (False, 0b11),
    ]
    assert found[4].slowest == 1
    assert [remaining(counters, one) for one in (watching, real)] == [0, 0]
    assert counters.decide(ask(watching, cost=0))[0].violated == 1


def test_denied_by_another_rule_a_watching_rule_counts_nothing(counters: SettableCounters) -> None:
    """All or nothing holds for those who watch as well."""
    watching, real = limited(FIXED, 9, shadow=True), limited(SLIDING, 1)
    counters.decide(*[ask(watching, real)] * 5)
    assert remaining(counters, watching) == 8


def test_denied_hits_count_where_the_limit_says_so(counters: SettableCounters) -> None:
    """As with INCRBY: a cost that did not fit has been counted, and a smaller one does not fit after it."""
    limit = limited(FIXED, 10, counts_denied=True)
    found = counters.decide(ask(limit, cost=8), ask(limit, cost=5), ask(limit), ask(limit, cost=0))
    assert [one.allowed for one in found] == [True, False, False, False]
    assert [one.levels[0] for one in found] == [2, -3, -4, -4]
    counters.now_us += MINUTE
    assert counters.decide(ask(limit, cost=10))[0].allowed


def test_denied_by_another_rule_such_hits_count_too(counters: SettableCounters) -> None:
    """A rule of its own among others: it alone counts what the other denies."""
    counting, plain = limited(FIXED, 10, counts_denied=True), limited(SLIDING, 1)
    found = counters.decide(*[ask(counting, plain)] * 3)
    assert [one.allowed for one in found] == [True, False, False]
    assert [remaining(counters, one) for one in (counting, plain)] == [7, 0]


@pytest.mark.parametrize("full", [0, 51, 52, 63, 64, 127])
def test_any_number_of_limits(counters: SettableCounters, full: int) -> None:
    """Of 128 limits one is full: it alone is marked, and nothing is taken from the others."""
    limits = [
        limit_of(rule=f"{index}", algorithm=FIXED, per=(), limit=1 if index == full else 9, window_us=MINUTE)
        for index in range(128)
    ]
    assert counters.decide(ask(*limits))[0].violated == 0
    denied = counters.decide(ask(*limits))[0]
    assert (denied.allowed, denied.violated, denied.slowest) == (False, 1 << full, full)
    assert [left for left in denied.levels[::2] if left != 8] == [0]
    assert min(denied.levels) >= 0


STEPS = st.one_of(
    st.integers(0, 3),
    st.integers(0, MINUTE),
    st.sampled_from([SECOND, MINUTE // 100, MINUTE // 2, MINUTE - 1, MINUTE, MINUTE + 1]),
)
# A cost to take, or how much of which earlier cost to give back.
MOVES = st.one_of(st.integers(1, 10), st.tuples(st.integers(0, 9), st.integers(1, 10)))
HISTORIES = st.lists(st.tuples(STEPS, MOVES), min_size=1, max_size=40)


def net_taken(limit: Limit, hits: list[list[int]], now_us: int) -> Fraction:
    """What is taken when every refund belongs to its own hit, by the definitions."""
    oracle = Oracle()
    oracle._hits[limit.rule] = [(at, cost) for at, cost, _ in hits]
    return oracle.taken(limit.rule, limit, now_us)


@pytest.mark.redis
@ALL
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=HISTORIES)
def test_refunds_let_nothing_extra_pass(in_redis: InRedis, limit: Limit, history: list[Any]) -> None:
    """Whatever is given back whenever: both say the same, and what passes fits beside all that was really used."""
    in_redis.client.flushdb()
    in_redis.extra_life_ms = 600_000
    memory, hits = InMemory(), list[list[int]]()
    in_redis.now_us = START_US
    for step, move in history:
        memory.now_us = in_redis.now_us = now_us = in_redis.now_us + step
        asked = _move(limit, hits, move, now_us)
        found = in_redis.decide(asked, ask(limit, cost=0))
        assert list(found) == list(memory.decide(asked, ask(limit, cost=0)))
        if asked.errand is None and found[0].wait_us == ALLOWED:
            assert net_taken(limit, hits, now_us) + asked.cost <= limit.limit
            hits.append([now_us, asked.cost, 0])


def _move(limit: Limit, hits: list[list[int]], move: Any, now_us: int) -> Ask:
    """A cost to take; or some of an earlier hit, which is noted there."""
    if isinstance(move, int):
        return ask(limit, cost=move)
    index, amount = move
    if not hits:
        return refund(limit, 0)
    hit = hits[index % len(hits)]
    amount = min(amount, hit[1])
    hit[1] -= amount
    return refund(limit, amount, now_us - hit[0])
