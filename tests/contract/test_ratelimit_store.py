"""One behaviour of counting, held by the counters in memory and by the script in a real Redis, against an oracle."""

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ratelimit.model.decisions import ALLOWED, NEVER
from services.ratelimit.model.limits import Algorithm, Ask, Limit, limit_of
from services.ratelimit.ports import Debt
from tests.contract.ratelimit.cluster import InCluster
from tests.contract.ratelimit.counters import START_US, InMemory, InRedis, SettableCounters
from tests.contract.ratelimit.oracle import Oracle

SECOND = 1_000_000
MINUTE = 60 * SECOND


def sliding(count: int = 3, *, exact: bool = True) -> Limit:
    return limit_of(
        rule="sliding", algorithm=Algorithm.SLIDING_WINDOW, per=("user",), limit=count, window_us=MINUTE, exact=exact
    )


def fixed(count: int = 3) -> Limit:
    return limit_of(rule="fixed", algorithm=Algorithm.FIXED_WINDOW, per=("user",), limit=count, window_us=MINUTE)


def bucket(count: int = 3, rate: int = 0) -> Limit:
    return limit_of(
        rule="bucket", algorithm=Algorithm.TOKEN_BUCKET, per=("user",), limit=count, window_us=MINUTE, rate=rate
    )


def ask(*limits: Limit, cost: int = 1, user: str = "anna") -> Ask:
    return Ask(tuple(f"{user}:{limit.rule}" for limit in limits), limits, cost)


ALL = pytest.mark.parametrize("limit", [sliding(), sliding(exact=False), fixed(), bucket()], ids=lambda one: one.rule)


@ALL
def test_admits_as_many_as_the_limit_says(counters: SettableCounters, limit: Limit) -> None:
    """The limit passes, one more does not, and what remains counts down to nothing."""
    verdicts = [counters.decide(ask(limit))[0] for _ in range(4)]
    assert [one.allowed for one in verdicts] == [True, True, True, False]
    assert [one.levels[0] for one in verdicts] == [2, 1, 0, 0]


@ALL
def test_a_frame_decides_one_after_the_other(counters: SettableCounters, limit: Limit) -> None:
    """Asks of one frame see what those before them took."""
    verdicts = counters.decide(*[ask(limit)] * 4, ask(limit, user="bert"))
    assert [one.allowed for one in verdicts] == [True, True, True, False, True]


@ALL
def test_a_retry_at_exactly_the_hint_passes_and_not_before(counters: SettableCounters, limit: Limit) -> None:
    """Denied one microsecond before the hint, admitted at it."""
    for step in (0, 7, 11):
        counters.now_us += step
        counters.decide(ask(limit))
    wait_us = counters.decide(ask(limit, cost=2))[0].wait_us
    assert wait_us > 0
    counters.now_us += wait_us - 1
    assert counters.decide(ask(limit, cost=2))[0].wait_us == 1
    counters.now_us += 1
    assert counters.decide(ask(limit, cost=2))[0].allowed


@ALL
def test_cost_zero_checks_and_takes_nothing(counters: SettableCounters, limit: Limit) -> None:
    """A cost of 0 says whether 1 would pass; asked however often, it takes nothing."""
    assert [counters.decide(ask(limit, cost=0))[0].allowed for _ in range(5)] == [True] * 5
    counters.decide(ask(limit, cost=3))
    assert not counters.decide(ask(limit, cost=0))[0].allowed


@ALL
def test_what_can_never_pass_has_no_hint(counters: SettableCounters, limit: Limit) -> None:
    """A cost above the limit is refused for ever and takes nothing."""
    assert counters.decide(ask(limit, cost=4))[0].wait_us == NEVER
    assert counters.decide(ask(limit, cost=3))[0].allowed


@ALL
def test_the_counter_is_empty_again_when_it_says(counters: SettableCounters, limit: Limit) -> None:
    """`reset` is the instant at which everything would pass again, and not a microsecond later."""
    counters.decide(ask(limit, cost=2))
    reset_us = counters.decide(ask(limit, cost=0))[0].levels[1]
    counters.now_us += reset_us - 1
    assert not counters.decide(ask(limit, cost=3))[0].allowed
    counters.now_us += 1
    assert counters.decide(ask(limit, cost=0))[0].levels == (3, 0)


def test_all_or_nothing(counters: SettableCounters) -> None:
    """A denied request leaves every counter as it was, and waits for the slowest of those that deny it."""
    wide, narrow = fixed(5), sliding(2)
    counters.decide(ask(narrow, cost=2))
    denied = counters.decide(ask(wide, narrow))[0]
    assert (denied.allowed, denied.slowest, denied.levels[0]) == (False, 1, 5)
    assert counters.decide(ask(wide, cost=5))[0].allowed


def test_the_longest_wait_counts(counters: SettableCounters) -> None:
    """With several violated limits the hint is the longest, and never when one of them can never pass."""
    counters.now_us += 40 * SECOND
    short, long = fixed(1), sliding(1)
    counters.decide(ask(short, long))
    denied = counters.decide(ask(short, long))[0]
    assert (denied.wait_us, denied.slowest) == (MINUTE, 1)
    assert counters.decide(ask(short, long, bucket(9), cost=2))[0].wait_us == NEVER


def test_fixed_windows_begin_with_the_clock(counters: SettableCounters) -> None:
    """The last microsecond of a window and the first of the next count apart."""
    counters.now_us += MINUTE - 1
    assert counters.decide(ask(fixed(), cost=3))[0].allowed
    assert counters.decide(ask(fixed()))[0].wait_us == 1
    counters.now_us += 1
    assert counters.decide(ask(fixed(), cost=3))[0].allowed


def test_a_bucket_refills_at_any_rate(counters: SettableCounters) -> None:
    """Seven a minute is no whole number of microseconds each; the hint is still exact."""
    limit = bucket(7)
    counters.decide(ask(limit, cost=7))
    assert counters.decide(ask(limit))[0].wait_us == -(-MINUTE // 7)
    counters.now_us += MINUTE - 1
    assert not counters.decide(ask(limit, cost=7))[0].allowed
    counters.now_us += 1
    assert counters.decide(ask(limit, cost=7))[0].allowed


def test_a_raised_limit_works_at_once(counters: SettableCounters) -> None:
    """What was taken stays taken, and the new limit is the limit."""
    for before, after in ((sliding(3), sliding(5)), (fixed(3), fixed(5)), (bucket(3), bucket(5))):
        counters.decide(ask(before, cost=3))
        assert counters.decide(ask(after, cost=0))[0].levels[0] == 2
        assert counters.decide(ask(before, cost=0))[0].levels[0] == 0


@ALL
def test_a_clock_that_steps_back_lets_nothing_extra_pass(counters: SettableCounters, limit: Limit) -> None:
    """After a step of an hour nothing more passes, and one window later all is well."""
    counters.now_us += 3600 * SECOND
    counters.decide(ask(limit, cost=3))
    counters.now_us -= 3600 * SECOND
    denied = counters.decide(ask(limit))[0]
    assert not denied.allowed
    assert denied.wait_us <= limit.longest_us
    counters.now_us += 2 * MINUTE
    assert counters.decide(ask(limit, cost=3))[0].allowed


@pytest.mark.redis
@ALL
def test_everything_stored_expires(in_redis: InRedis, limit: Limit) -> None:
    """Every counter lives a little longer than it has something to say."""
    in_redis.decide(ask(limit, cost=2))
    life_ms = in_redis.client.pttl(f"anna:{limit.rule}")
    assert MINUTE // 1000 < life_ms <= MINUTE // 1000 * 1.15 + 7000


@pytest.mark.redis
@ALL
def test_settled_debts_count(in_redis: InRedis, limit: Limit) -> None:
    """What was admitted elsewhere is added to what is there, and ages like the rest."""
    memory = InMemory()
    memory.decide(ask(limit))
    in_redis.decide(ask(limit))
    in_redis.now_us += SECOND
    key = f"anna:{limit.rule}"
    in_redis.settle(Debt(key, limit, memory.counters.get(key, limit).dump()))
    assert [in_redis.decide(ask(limit))[0].allowed for _ in range(2)] == [True, False]
    in_redis.now_us += 2 * MINUTE
    assert in_redis.decide(ask(limit, cost=3))[0].allowed


@pytest.mark.redis
@ALL
def test_what_was_taken_can_be_taken_back(in_redis: InRedis, limit: Limit) -> None:
    """A debt below 0, as of the instant at which the amount was taken, leaves the counter as if it never had been."""
    in_redis.decide(ask(limit))
    in_redis.now_us += 7
    before = in_redis.decide(ask(limit, cost=0))
    memory = InMemory()
    memory.now_us = in_redis.now_us
    in_redis.decide(ask(limit, cost=2))
    memory.decide(ask(limit, cost=2))
    at, *taken = memory.counters.get(f"anna:{limit.rule}", limit).dump()
    in_redis.settle(Debt(f"anna:{limit.rule}", limit, (at, *taken[:-1], -taken[-1])))
    assert in_redis.decide(ask(limit, cost=0)) == before


@ALL
def test_a_negative_cost_asks_for_as_much(counters: SettableCounters, limit: Limit) -> None:
    """Whether so much would pass, without taking it."""
    assert [one.allowed for one in counters.decide(ask(limit, cost=-3), ask(limit), ask(limit, cost=-3))] == [
        True,
        True,
        False,
    ]
    assert counters.decide(ask(limit, cost=-2))[0].allowed


LIMITS = {
    "sliding": sliding(5),
    "ring": limit_of(
        rule="ring", algorithm=Algorithm.SLIDING_WINDOW, per=("user",), limit=6, window_us=SECOND, exact=False
    ),
    "fixed": limit_of(rule="fixed", algorithm=Algorithm.FIXED_WINDOW, per=("user",), limit=7, window_us=7 * SECOND),
    "bucket": bucket(4, rate=9),
}
STEPS = st.one_of(
    st.integers(0, 3),
    st.integers(0, 2 * MINUTE),
    st.sampled_from([SECOND // 100, SECOND // 100 - 1, SECOND, SECOND - 1, 7 * SECOND, MINUTE, MINUTE - 1, MINUTE + 1]),
)
ASKS = st.tuples(
    st.sampled_from(["anna", "bert"]),
    st.lists(st.sampled_from(sorted(LIMITS)), min_size=1, max_size=4, unique=True),
    st.integers(0, 8),
)
HISTORIES = st.lists(st.tuples(STEPS, st.lists(ASKS, min_size=1, max_size=4)), min_size=1, max_size=25)


@pytest.mark.redis
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=HISTORIES)
def test_memory_and_redis_agree_with_the_oracle(in_redis: InRedis, history: list[Any]) -> None:
    """Whatever is asked whenever: both say the same to the number, and admit exactly what the definitions admit."""
    in_redis.client.flushdb()
    in_redis.extra_life_ms = 600_000
    memory, oracle = InMemory(), Oracle()
    in_redis.now_us = START_US
    for step, frame in history:
        in_redis.now_us += step
        memory.now_us = in_redis.now_us
        asks = [ask(*(LIMITS[name] for name in names), cost=cost, user=user) for user, names, cost in frame]
        found = in_redis.decide(*asks)
        assert list(found) == list(memory.decide(*asks))
        assert [one.wait_us == ALLOWED for one in found] == [oracle.decide(one, in_redis.now_us) for one in asks]


@pytest.mark.redis
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(st.tuples(STEPS, ASKS), min_size=1, max_size=25))
def test_a_cluster_agrees_with_the_oracle(in_cluster: InCluster, history: list[Any]) -> None:
    """Asks whose counters lie on different nodes are all or nothing too, and a denied one leaves nothing behind."""
    oracle, life = Oracle(), uuid4()
    in_cluster.now_us = START_US
    for step, (user, names, cost) in history:
        in_cluster.now_us += step
        one = ask(*(LIMITS[name] for name in names), cost=cost, user=f"{user}{life}")
        assert in_cluster.decide(one)[0].allowed == oracle.decide(one, in_cluster.now_us)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(history=HISTORIES, name=st.sampled_from(sorted(LIMITS)))
def test_the_hint_is_always_exact(history: list[Any], name: str) -> None:
    """After any history, a denied ask passes at its hint and fails one microsecond before it."""
    memory, limit = InMemory(), LIMITS[name]
    for step, frame in history:
        memory.now_us += step
        for _, _, cost in frame:
            memory.decide(ask(limit, cost=cost))
    wanted = ask(limit, cost=limit.limit)
    wait_us = memory.decide(wanted)[0].wait_us
    if wait_us != ALLOWED:
        memory.now_us += wait_us - 1
        assert memory.decide(wanted)[0].wait_us == 1
        memory.now_us += 1
        assert memory.decide(wanted)[0].allowed
