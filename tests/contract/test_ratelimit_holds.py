"""Places that are held: so many at the same time, by id, until they are released or their lease ends."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ratelimit.model.counters import UNKNOWN
from services.ratelimit.model.decisions import NEVER
from services.ratelimit.model.errands import Action, Errand, hold_of
from services.ratelimit.model.limits import Algorithm, Ask, Limit, limit_of
from services.ratelimit.ports import Debt
from tests.contract.ratelimit.counters import START_US, InMemory, InRedis, SettableCounters
from tests.contract.ratelimit.oracle import Oracle

SECOND = 1_000_000
LEASE = 10 * SECOND


def places(count: int = 2, *, rule: str = "places", lease_us: int = LEASE, shadow: bool = False) -> Limit:
    return limit_of(
        rule=rule, algorithm=Algorithm.CONCURRENCY, per=("user",), limit=count, lease_us=lease_us, shadow=shadow
    )


def rated(count: int = 3, *, shadow: bool = False) -> Limit:
    return limit_of(
        rule="rated",
        algorithm=Algorithm.SLIDING_WINDOW,
        per=("user",),
        limit=count,
        window_us=60 * SECOND,
        shadow=shadow,
    )


def ask(hold: str, *limits: Limit, action: Action = Action.TAKE, cost: int = 1) -> Ask:
    found = limits or (places(),)
    return Ask(tuple(limit.rule for limit in found), found, cost, Errand(action, hold_of(hold)))


def passes(counters: SettableCounters, *asks: Ask) -> list[bool]:
    return [verdict.allowed for verdict in counters.decide(*asks)]


def test_as_many_as_the_limit_at_the_same_time(counters: SettableCounters) -> None:
    """Two are held, a third is not, and nobody can say when it will pass."""
    found = counters.decide(*(ask(name) for name in "abc"))
    assert [one.wait_us for one in found] == [-1, -1, UNKNOWN]
    assert [one.levels for one in found] == [(1, LEASE), (0, LEASE), (0, LEASE)]
    assert found[2].violated == 1


def test_the_same_id_is_held_once(counters: SettableCounters) -> None:
    """A repeated request is not counted twice, passes when all is full, and is held longer."""
    assert passes(counters, ask("a"), ask("b")) == [True, True]
    counters.now_us += LEASE - 1
    assert passes(counters, ask("a"), ask("c")) == [True, False]
    counters.now_us += 1
    assert passes(counters, ask("c"), ask("d")) == [True, False]


def test_a_release_makes_room_at_once_and_twice_is_once(counters: SettableCounters) -> None:
    """In the same frame too; what is not held is passed over."""
    end = ask("a", action=Action.RELEASE)
    assert passes(counters, ask("a"), ask("b"), end, end, ask("c"), ask("d")) == [True, True, True, True, True, False]


def test_a_holder_that_died_returns_its_place_within_a_lease(counters: SettableCounters) -> None:
    """Full one microsecond before the lease ends, free at its end."""
    passes(counters, ask("a"), ask("b"))
    counters.now_us += LEASE - 1
    assert passes(counters, ask("c")) == [False]
    counters.now_us += 1
    assert passes(counters, ask("c")) == [True]


def test_a_long_stream_keeps_its_place(counters: SettableCounters) -> None:
    """Renewed in time it is held for ever; renewed too late it says so and takes nobody's place."""
    renewal = ask("a", action=Action.RENEW)
    passes(counters, ask("a"))
    for _ in range(5):
        counters.now_us += LEASE - 1
        assert passes(counters, renewal) == [True]
    counters.now_us += LEASE
    assert counters.decide(renewal)[0].wait_us == NEVER
    assert passes(counters, ask("b"), ask("c")) == [True, True]


def test_denied_by_its_rate_it_holds_nothing(counters: SettableCounters) -> None:
    """And denied by its places it takes nothing of its rate."""
    both = (rated(), places())
    assert passes(counters, ask("a", *both, cost=4), ask("b", *both, cost=2), ask("c", *both)) == [False, True, True]
    assert counters.decide(ask("d", *both, cost=0))[0].levels[::2] == (0, 0)
    assert passes(counters, ask("b", *both, action=Action.RELEASE)) == [True]
    full = counters.decide(ask("d", *both))[0]
    assert (full.slowest, full.levels[::2]) == (0, (0, 1))


def test_a_cost_takes_one_place_and_zero_takes_none(counters: SettableCounters) -> None:
    """Places are of requests, whatever these cost."""
    assert passes(counters, ask("a", cost=900_000), ask("b", cost=0), ask("c", cost=0), ask("d")) == [True] * 4
    assert passes(counters, ask("e", cost=0)) == [False]


def test_a_lower_limit_lets_those_who_are_in_finish(counters: SettableCounters) -> None:
    """They renew and are found; nobody else enters before there is room."""
    passes(counters, ask("a"), ask("b"))
    less = places(1)
    assert passes(counters, ask("a", less), ask("c", less)) == [True, False]
    assert passes(counters, ask("b", less, action=Action.RELEASE), ask("c", less)) == [True, False]
    assert passes(counters, ask("a", less, action=Action.RELEASE), ask("c", less)) == [True, True]


def test_a_clock_that_steps_back_keeps_nobody_longer_than_a_lease(counters: SettableCounters) -> None:
    """An hour back: still full, and free after one lease."""
    counters.now_us += 3600 * SECOND
    passes(counters, ask("a"), ask("b"))
    counters.now_us -= 3600 * SECOND
    assert passes(counters, ask("c")) == [False]
    counters.now_us += LEASE
    assert passes(counters, ask("c")) == [True]


def test_a_rule_that_watches_counts_and_denies_nobody(counters: SettableCounters) -> None:
    """The third would have been denied: it passes, is marked, and is not held; renewing it is no loss."""
    watching = places(shadow=True)
    found = counters.decide(*(ask(name, watching) for name in "abc"))
    assert [(one.allowed, one.violated) for one in found] == [(True, 0), (True, 0), (True, 1)]
    assert passes(counters, ask("c", watching, action=Action.RENEW)) == [True]


@pytest.mark.redis
def test_holds_that_are_told_again_count_once(in_redis: InRedis) -> None:
    """What memory held stands beside what is there; told twice it counts once; nobody is held beyond a lease."""
    memory = InMemory()
    memory.now_us += SECOND
    passes(memory, ask("a"), ask("b"))
    state = memory.counters.get("places", places()).dump()
    passes(in_redis, ask("a", places(5)))
    for _ in range(2):
        in_redis.settle(Debt("places", places(5), state))
    assert in_redis.decide(ask("c", places(5), cost=0))[0].levels == (3, LEASE)
    in_redis.now_us += LEASE
    assert in_redis.decide(ask("c", places(5), cost=0))[0].levels == (5, 0)


@pytest.mark.redis
def test_nothing_is_left_of_nobody(in_redis: InRedis) -> None:
    """When the last one goes the key goes; until then it lives a little longer than its lease."""
    passes(in_redis, ask("a"))
    assert LEASE // 1000 < in_redis.client.pttl("places") <= LEASE // 1000 + 1001
    passes(in_redis, ask("a", action=Action.RELEASE))
    assert in_redis.client.keys("*places*") == []


@pytest.mark.redis
def test_ten_thousand_places(in_redis: InRedis) -> None:
    """The most that a rule may allow are told, held and found, and the next is not."""
    most, memory = places(10_000), InMemory()
    assert all(passes(memory, *(ask(str(number), most) for number in range(10_000))))
    in_redis.settle(Debt("places", most, memory.counters.get("places", most).dump()))
    assert passes(in_redis, ask("one more", most), ask("9999", most), ask("0", most)) == [False, True, True]
    assert passes(in_redis, ask("0", most, action=Action.RELEASE), ask("one more", most)) == [True, True]


LIMITS = {
    "two": places(2, rule="two", lease_us=3 * SECOND),
    "three": places(3, rule="three", lease_us=LEASE),
    "watching": places(1, rule="watching", lease_us=SECOND, shadow=True),
    "rated": rated(4),
    "fixed": limit_of(
        rule="fixed",
        algorithm=Algorithm.FIXED_WINDOW,
        per=("user",),
        limit=6,
        window_us=7 * SECOND,
        counts_denied=True,
    ),
}
STEPS = st.one_of(
    st.integers(0, 2),
    st.integers(0, 2 * LEASE),
    st.sampled_from([SECOND, 3 * SECOND - 1, 3 * SECOND, LEASE - 1, LEASE]),
)
ASKS = st.tuples(
    st.sampled_from("abcde"),
    st.lists(st.sampled_from(sorted(LIMITS)), min_size=1, max_size=4, unique=True),
    st.sampled_from([Action.TAKE, Action.TAKE, Action.RENEW, Action.RELEASE]),
    st.integers(0, 3),
)
HISTORIES = st.lists(st.tuples(STEPS, st.lists(ASKS, min_size=1, max_size=4)), min_size=1, max_size=25)


@pytest.mark.redis
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=HISTORIES)
def test_memory_and_redis_agree_with_the_oracle(in_redis: InRedis, history: list[Any]) -> None:
    """Whoever takes, renews and releases whenever: both say the same, and hold exactly whom the definitions hold."""
    in_redis.client.flushdb()
    in_redis.extra_life_ms = 600_000
    memory, oracle = InMemory(), Oracle()
    in_redis.now_us = START_US
    for step, frame in history:
        in_redis.now_us += step
        memory.now_us = in_redis.now_us
        asks = [
            ask(hold, *(LIMITS[name] for name in names), action=action, cost=cost)
            for hold, names, action, cost in frame
        ]
        found = in_redis.decide(*asks)
        assert list(found) == list(memory.decide(*asks))
        assert [one.allowed for one in found] == [oracle.decide(one, in_redis.now_us) for one in asks]
