"""Renewing, releasing, giving back and looking: what the counters are asked, and what is owed when no answer comes."""

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from chassis.errors import Invalid, Unavailable
from services.ratelimit.memory import MemoryShadow
from services.ratelimit.model.book import RuleBook
from services.ratelimit.model.decisions import ALLOWED, NEVER, Verdict
from services.ratelimit.model.errands import Action, Errand, hold_of
from services.ratelimit.model.limits import MAX_COST, Algorithm, Ask, Refund, Subject, limit_of
from services.ratelimit.operations import Limiter
from services.ratelimit.ports import Answer, InDoubt
from tests.support.clock import FakeClock

YES = Verdict(ALLOWED, 0, ())
CHAT = Subject("chat", user="anna", hold="one", cost=5)
LIMITS = (
    limit_of(rule="tokens", algorithm=Algorithm.SLIDING_WINDOW, per=("user",), limit=10, window_us=60_000_000),
    limit_of(rule="places", algorithm=Algorithm.CONCURRENCY, per=("user",), limit=1),
    limit_of(rule="watching", algorithm=Algorithm.FIXED_WINDOW, per=(), limit=1, window_us=60_000_000, shadow=True),
)


class FakeRules:
    def __init__(self) -> None:
        classes = {"chat": tuple({"default": limit} for limit in LIMITS)}
        self.book = RuleBook(classes=classes, source="", generation=7)


class FakeStore:
    """Answers yes to everything, or what the test says, or raises it."""

    def __init__(self) -> None:
        self.ready = True
        self.asked: list[Ask] = []
        self.answer: Verdict | Exception = YES

    def shares(self, asks: Sequence[Ask]) -> None:
        """All asks can be told here."""

    async def decide(self, asks: Sequence[Ask]) -> Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        self.asked += asks
        return Answer([self.answer] * len(asks), 1_800_000_000_000_000)


class Bench:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.shadow = MemoryShadow(FakeClock(), lambda: 1, cap=100)
        self.limiter = Limiter(rules=FakeRules(), store=self.store, shadow=self.shadow)

    def asked(self) -> list[tuple[list[str], int, Errand | None]]:
        """What the store was asked: rules, cost, errand."""
        return [([limit.rule for limit in one.limits], one.cost, one.errand) for one in self.store.asked]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_each_errand_goes_where_it_means_something(bench: Bench) -> None:
    """Holds are of concurrency rules, refunds of those that count costs; decisions are of all and tell their rules."""
    found = await bench.limiter.decide([CHAT, CHAT._replace(hold="")])
    assert [one.generation for one in found] == [7, 7]
    assert await bench.limiter.renew([CHAT]) == [True]
    await bench.limiter.release([CHAT])
    await bench.limiter.refund([Refund(CHAT, 3, age_us=2)])
    hold = hold_of("one")
    assert bench.asked() == [
        (["tokens", "places", "watching"], 5, Errand(Action.TAKE, hold)),
        (["tokens", "watching"], 5, None),
        (["places"], 0, Errand(Action.RENEW, hold)),
        (["places"], 0, Errand(Action.RELEASE, hold)),
        (["tokens", "watching"], 3, Errand(Action.REFUND, age_us=2)),
    ]


async def test_usage_looks_at_all_rules_and_takes_nothing(bench: Bench) -> None:
    """Places too, without a hold; and a look is no decision that is counted."""
    found = await bench.limiter.usage(CHAT._replace(hold=""), ["chat"])
    assert bench.asked() == [(["tokens", "places", "watching"], 0, Errand(Action.TAKE))]
    assert (len(found), bench.limiter.tally.decisions) == (1, 0)


async def test_a_hold_that_is_lost_is_told(bench: Bench) -> None:
    """The caller hears that its lease had ended."""
    bench.store.answer = Verdict(NEVER, 0, (), 1)
    assert await bench.limiter.renew([CHAT]) == [False]


@pytest.mark.parametrize("amount", [6, MAX_COST, 4_294_967_295])
async def test_more_than_a_cost_is_not_given_back(bench: Bench, amount: int) -> None:
    """Refused by name, and nothing of the same call is given."""
    with pytest.raises(Invalid, match=f"not {amount}"):
        await bench.limiter.refund([Refund(CHAT, 1), Refund(CHAT, amount)])
    assert bench.store.asked == []


@pytest.mark.parametrize("hold", ["", "x" * 65, "x" * 65_536], ids=["none", "65", "64 KB"])
async def test_a_hold_must_have_a_name_of_some_length(bench: Bench, hold: str) -> None:
    """Nothing is renewed or released without one; a decision without one is no hold."""
    for errand in (bench.limiter.renew, bench.limiter.release):
        with pytest.raises(Invalid, match="hold"):
            await errand([CHAT, CHAT._replace(hold=hold)])
    if hold:
        with pytest.raises(Invalid, match="hold"):
            await bench.limiter.decide([CHAT._replace(hold=hold)])
    assert bench.store.asked == []


async def test_what_was_owed_is_told_before_the_next_question(bench: Bench) -> None:
    """As soon as the store decides again; what it does not hear is owed on."""
    bench.store.answer, bench.store.ready = Unavailable(), False
    await bench.limiter.release([CHAT])
    bench.store.ready = True
    assert await bench.limiter.renew([CHAT]) == [True]
    bench.store.answer = YES
    await bench.limiter.decide([CHAT._replace(hold="two")])
    assert [errand.action for _, _, errand in bench.asked() if errand] == [Action.RELEASE, Action.TAKE]


@pytest.mark.parametrize(("late", "again"), [(YES, False), (None, True)], ids=["done", "never known"])
async def test_a_release_in_doubt_is_told_again(bench: Bench, late: Verdict | None, again: bool) -> None:
    """To release twice is to release once."""
    await _in_doubt(bench, bench.limiter.release([CHAT]), late)
    assert bench.shadow.owes_errands == again


@pytest.mark.parametrize("late", [YES, None], ids=["done", "never known"])
async def test_a_refund_in_doubt_is_not_told_again(bench: Bench, late: Verdict | None) -> None:
    """To give back twice would be too much."""
    await _in_doubt(bench, bench.limiter.refund([Refund(CHAT, 1)]), late)
    assert not bench.shadow.owes_errands
    assert not bench.shadow.owes


@pytest.mark.parametrize(
    ("late", "released"), [(YES, True), (None, True), (Verdict(1, 0, ()), False)], ids=["held", "never known", "denied"]
)
async def test_nobody_is_held_whom_the_shadow_denied(bench: Bench, late: Verdict | None, released: bool) -> None:
    """The store may have taken a place for a request that was refused here: it is released."""
    await bench.limiter.decide([CHAT])
    await _in_doubt(bench, bench.limiter.decide([CHAT._replace(hold="two", cost=1)]), late)
    found = [one.errand for one in bench.shadow.take_errands(10)]
    assert found == ([Errand(Action.RELEASE, hold_of("two"))] if released else [])


async def _in_doubt(bench: Bench, call: Awaitable[object], late: Verdict | None) -> None:
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    bench.store.answer = InDoubt(answer)
    await call
    if late is None:
        answer.set_exception(ConnectionError("gone"))
    else:
        answer.set_result(Answer([late], 0))
    await asyncio.sleep(0)


async def test_rules_that_watch_are_counted_by_name(bench: Bench) -> None:
    """What they would have denied, whether something else denied it or not."""
    bench.store.answer = Verdict(ALLOWED, 0, (), 0b010)
    await bench.limiter.decide([CHAT._replace(hold="")] * 2)
    bench.store.answer = Verdict(5, 0, (), 0b011)
    await bench.limiter.decide([CHAT._replace(hold="")])
    tally = bench.limiter.tally
    assert (tally.decisions, tally.denied, tally.shadow_denied) == (3, 1, {"watching": 3})
