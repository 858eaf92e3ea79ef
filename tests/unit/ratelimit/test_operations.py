"""Who decides when, and what is owed to whom afterwards."""

import asyncio
from collections.abc import Sequence

import pytest
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import Invalid, MeshError, Unavailable
from services.ratelimit.memory import MemoryShadow
from services.ratelimit.model.decisions import ALLOWED, Verdict
from services.ratelimit.model.errands import Action
from services.ratelimit.model.limits import Ask, Subject
from services.ratelimit.operations import Limiter
from services.ratelimit.ports import Answer, InDoubt
from services.ratelimit.rpc.decisions import RatelimitServicer
from services.ratelimit.rules.file import RuleFile, read_book
from services.ratelimit.rules.force import RulesInForce
from tests.support.clock import FakeClock
from tests.unit.ratelimit.board import MemoryBoard

YES, NO = Verdict(ALLOWED, 0, (9, 60_000_000)), Verdict(5_000_000, 0, (0, 60_000_000))


class FakeRules:
    def __init__(self) -> None:
        self.book = read_book(None)


class FakeStore:
    """Answers what the test says, or raises it."""

    def __init__(self) -> None:
        self.ready = True
        self.frames: list[Sequence[Ask]] = []
        self.answer: Verdict | Exception = YES

    def shares(self, asks: Sequence[Ask]) -> None:
        """All asks can be told here."""

    async def decide(self, asks: Sequence[Ask]) -> Answer:
        self.frames.append(asks)
        if isinstance(self.answer, Exception):
            raise self.answer
        return Answer([self.answer] * len(asks), 1_800_000_000_000_000)


class Bench:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.shadow = MemoryShadow(FakeClock(), lambda: 1, cap=100)
        self.limiter = Limiter(rules=FakeRules(), store=self.store, shadow=self.shadow)

    async def chat(self, count: int = 1) -> list[bool]:
        subjects = [Subject("v1.chat", user="anna")] * count
        return [one.verdict.allowed for one in await self.limiter.decide(subjects)]

    def owed(self) -> int:
        return sum(debt.state[-1] for debt in self.shadow.take_debts(10))


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_store_decides_and_the_shadow_follows(bench: Bench) -> None:
    """The answer is the store's; what it admitted counts here too, and nothing is owed."""
    assert await bench.chat(8) == [True] * 8
    bench.store.answer = Unavailable()
    assert await bench.chat(4) == [True, True, False, False]
    assert bench.owed() == 2


async def test_without_the_store_decisions_are_marked(bench: Bench) -> None:
    """No error reaches the caller; the decision says it is degraded and the tally counts it."""
    bench.store.answer = Unavailable()
    found = await bench.limiter.decide([Subject("v1.chat", user="anna", cost=11)])
    assert (found[0].degraded, found[0].verdict.allowed) == (True, False)
    tally = bench.limiter.tally
    assert (tally.decisions, tally.denied, tally.degraded) == (1, 1, 1)


@pytest.mark.parametrize(("late", "owed"), [(YES, 0), (NO, 1), (None, 1)], ids=["admitted", "denied", "never"])
async def test_a_doubt_is_cleared_by_the_late_answer(bench: Bench, late: Verdict | None, owed: int) -> None:
    """What the store admitted after all is not owed; what it denied, or will never say, is."""
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    bench.store.answer = InDoubt(answer)
    assert await bench.chat() == [True]
    assert bench.owed() == 0
    if late is None:
        answer.set_exception(ConnectionError("gone"))
    else:
        answer.set_result(Answer([late], 0))
    await asyncio.sleep(0)
    assert bench.owed() == owed


async def test_calls_of_a_frame_are_one_question(bench: Bench) -> None:
    """A frame's calls reach the store together; an invalid one gets its error and holds up nobody."""
    anna, bad = Subject("v1.chat", user="anna"), Subject("moon.landing", user="anna")
    found = await bench.limiter.decide_calls([[anna], [anna, bad], [anna, anna], []])
    assert [len(frame) for frame in bench.store.frames] == [3]
    lengths = [type(one).__name__ if isinstance(one, MeshError) else len(one) for one in found]
    assert lengths == [1, "Invalid", 2, 0]


async def test_a_call_that_is_too_large_counts_nothing_and_holds_up_no_other(bench: Bench) -> None:
    """It gets its error, its releases and refunds are not told to the store, and its neighbours are decided."""
    servicer = RatelimitServicer(bench.limiter, RulesInForce(RuleFile(None), MemoryBoard(), FakeClock()))
    anna = pb.Subject(route_class="v1.chat", user="anna")
    large = pb.DecideRequest(subjects=[anna] * 1001, releases=[anna], refunds=[pb.Refund(subject=anna, amount=1)])
    small = pb.DecideRequest(subjects=[anna])
    first, refused, last = await servicer.decide_frame([small, large, small])
    assert isinstance(refused, Invalid)
    assert refused.details == {"field": "subjects"}
    assert [len(one.decisions) for one in (first, last) if isinstance(one, pb.DecideResponse)] == [1, 1]
    assert [len(frame) for frame in bench.store.frames] == [2]


async def test_one_invalid_refund_takes_no_other_along(bench: Bench) -> None:
    """Of all that is given back in a frame only what is invalid is left out, whoever sent it."""
    servicer = RatelimitServicer(bench.limiter, RulesInForce(RuleFile(None), MemoryBoard(), FakeClock()))
    anna, held = (pb.Subject(route_class="v1.chat", user="anna", hold=hold) for hold in ("", "h"))
    good = pb.DecideRequest(subjects=[anna], releases=[held, anna], refunds=[pb.Refund(subject=anna, amount=1)])
    bad = pb.DecideRequest(subjects=[anna], refunds=[pb.Refund(subject=anna, amount=2)])
    found = await servicer.decide_frame([good, bad, good])
    assert [type(one).__name__ for one in found] == ["DecideResponse"] * 3
    told = [ask.errand.action for frame in bench.store.frames for ask in frame if ask.errand]
    assert told == [*[Action.RELEASE] * 2, *[Action.REFUND] * 2]


async def test_an_invalid_subject_counts_nothing(bench: Bench) -> None:
    """One unknown class in a call: an error that names it, and the store is not asked."""
    with pytest.raises(Invalid, match=r"moon\.landing"):
        await bench.limiter.decide([Subject("v1.chat", user="anna"), Subject("moon.landing")])
    assert bench.store.frames == []


async def test_nothing_asked_is_nothing_decided(bench: Bench) -> None:
    """An empty batch has an empty answer."""
    assert await bench.limiter.decide([]) == []
    assert bench.store.frames == []
