"""The shadow: bounded, on the store's time, by its share, and with a ledger of what the store must be told."""

from random import Random

import pytest

from services.ratelimit.memory import Counters, MemoryShadow
from services.ratelimit.model.counters import new_counter
from services.ratelimit.model.decisions import ALLOWED, Verdict
from services.ratelimit.model.limits import Algorithm, Ask, Limit, limit_of
from services.ratelimit.ports import Answer
from tests.support.clock import FakeClock

MINUTE = 60_000_000


def limit(algorithm: Algorithm = Algorithm.SLIDING_WINDOW, count: int = 10) -> Limit:
    return limit_of(rule="rule", algorithm=algorithm, per=("user",), limit=count, window_us=MINUTE)


def ask(user: str = "anna", cost: int = 1, of: Limit | None = None) -> Ask:
    return Ask((user,), (of or limit(),), cost)


def shadow(clock: FakeClock | None = None, instances: int = 1, cap: int = 1000) -> MemoryShadow:
    return MemoryShadow(clock or FakeClock(), lambda: instances, cap=cap)


def admitted(found: MemoryShadow, tries: int = 20, of: Limit | None = None) -> int:
    return sum(found.decide([ask(of=of)])[0].allowed for _ in range(tries))


def test_memory_stays_bounded_and_keeps_what_is_used() -> None:
    """A million keys leave at most the cap, and the one in use among them."""
    counters, one = Counters(100), limit()
    kept = counters.get("kept", one)
    for number in range(1_000_000):
        counters.get(str(number), one)
        if number % 40 == 0:
            assert counters.get("kept", one) is kept
    assert len(counters) <= 100


def test_each_instance_has_its_share() -> None:
    """Three instances admit a third each; one more instance and the share shrinks."""
    alone, third = shadow(), shadow(instances=3)
    assert (admitted(alone), admitted(third)) == (10, 3)
    bucket = limit(Algorithm.TOKEN_BUCKET, 9)
    assert admitted(shadow(instances=3), of=bucket) == 3


def test_a_warm_shadow_remembers_what_the_store_admitted() -> None:
    """Eight admitted by the store leave two without it; denied ones count nothing."""
    found = shadow()
    found.record([ask()] * 8, Answer([Verdict(ALLOWED, 0, (0, 0))] * 8, found.now_us))
    found.record([ask()] * 5, Answer([Verdict(1, 0, (0, 0))] * 5, found.now_us))
    assert admitted(found) == 2


def test_setting_the_machines_clock_changes_nothing() -> None:
    """Wall-clock time is read once; the store's time runs on by the monotonic clock."""
    clock = FakeClock()
    found = shadow(clock)
    found.record([], Answer([], 1_800_000_000_000_000))
    clock.advance(1.5)
    clock._now = clock._now.replace(year=2031)
    assert found.now_us == 1_800_000_001_500_000


def test_who_comes_back_when_the_store_said_passes_without_it_too() -> None:
    """However long answers are on their way: what was counted is over here when it is over there."""
    clock = FakeClock()
    found = shadow(clock)
    began_us, began = found.now_us, clock.monotonic()
    for cost, way_seconds in ((5, 0.009), (5, 0.001), (0, 0.009)):
        decided_us = began_us + round((clock.monotonic() - began) * 1_000_000)
        clock.advance(way_seconds)
        found.record([ask(cost=cost)], Answer([Verdict(ALLOWED, 0, (0, 0))], decided_us))
    clock.advance(60 - 0.019 - 0.001)
    assert admitted(found) == 0
    # By the fastest answer the store's time is known to a millisecond.
    clock.advance(0.001 + 0.001)
    assert admitted(found) == 5


def test_debts_are_what_was_admitted_and_not_told() -> None:
    """One debt a key, in the store's own form, and told once."""
    found = shadow()
    found.owe([ask(), ask(cost=2), ask("bert"), ask("zero", cost=0)])
    assert found.owes
    debts = {debt.key: debt.state[-1] for debt in found.take_debts(10)}
    assert debts == {"anna": 3, "bert": 1}
    assert not found.owes


def test_debts_that_could_not_be_told_come_again() -> None:
    """What is put back is taken again, in portions."""
    found = shadow()
    found.owe([ask(str(number)) for number in range(5)])
    debts = found.take_debts(3)
    assert len(debts) == 3
    found.put_back(debts)
    assert [len(found.take_debts(2)) for _ in range(4)] == [2, 1, 2, 0]
    assert not found.owes


def test_debts_that_are_over_are_not_told() -> None:
    """After its window a debt has nothing to say."""
    clock = FakeClock()
    found = shadow(clock)
    found.owe([ask()])
    clock.advance(70)
    assert found.take_debts(10) == []


def test_a_store_that_forgot_is_told_everything_once() -> None:
    """The whole count of a key holds its debt; nothing is told twice."""
    found = shadow()
    found.record([ask(cost=3)], Answer([Verdict(ALLOWED, 0, (0, 0))], found.now_us))
    found.decide([ask(cost=2)])
    found.owe([ask(cost=2)])
    found.owe_everything()
    assert [(debt.key, debt.state[-1]) for debt in found.take_debts(10)] == [("anna", 5)]
    assert not found.owes
    assert admitted(found) == 5


def test_a_store_that_forgot_a_part_is_told_that_part() -> None:
    """The counters of one server of several: the others keep what they have."""
    found = shadow()
    found.decide([ask(), ask("bert", cost=2)])
    found.owe([ask(), ask("bert", cost=2)])
    found.owe_everything(lambda key: key == "bert")
    told = [(debt.key, debt.state[-1]) for _ in range(3) for debt in found.take_debts(10)]
    assert told == [("bert", 2), ("anna", 1)]


def test_a_bucket_owes_tokens_and_not_shares() -> None:
    """Among three instances a token weighs three in the shadow, and one in what the store is told."""
    bucket = limit(Algorithm.TOKEN_BUCKET, 9)
    found = shadow(instances=3)
    found.record([ask(of=bucket)], Answer([Verdict(ALLOWED, 0, (0, 0))], found.now_us))
    found.owe_everything()
    assert found.take_debts(10)[0].state[1] == bucket.unit


def test_what_a_bucket_is_owed_drains_after_the_bucket_and_by_its_share() -> None:
    """While the store's own bucket drains the debt does not; later one of two instances drains half of it."""
    clock, bucket = FakeClock(), limit(Algorithm.TOKEN_BUCKET, 10)
    found = shadow(clock, instances=2)
    found.decide([ask(of=bucket)])
    found.owe([ask(cost=10, of=bucket)])
    clock.advance(60)
    found.owe([ask(cost=0, of=bucket)])
    clock.advance(30)
    assert [debt.state[1] / bucket.unit for debt in found.take_debts(1)] == [7.5]


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("exact", [True, False])
def test_a_hit_is_a_level_and_what_is_added_to_it(algorithm: Algorithm, exact: bool) -> None:
    """The same state after every step, also where time steps back."""
    one_limit = limit_of(rule="r", algorithm=algorithm, per=("user",), limit=50, window_us=1_000_000, exact=exact)
    chance, now_us = Random(7), 10_000_000
    one, other = new_counter(algorithm), new_counter(algorithm)
    for step in range(2000):
        now_us += chance.choice((0, 0, 1, 5_000, 300_000, 2_000_000, -400_000))
        units, hold = chance.randint(1, 3) * one_limit.unit, (step % 9, 0)
        one.hit(one_limit, now_us, units, hold)
        other.level(one_limit, now_us)
        other.add(one_limit, now_us, units, hold)
        assert one.dump() == other.dump()
