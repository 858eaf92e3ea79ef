"""A whole runner against a tasks service and a feed in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.config import Process
from chassis.errors import Invalid, Unavailable
from chassis.lifecycle import Host
from tests.support.clock import FakeClock
from tests.unit.worker.fakes import FakeDelivery, FakeFeed, FakeTasks
from worker.handler import Assignment, Kind, Reject
from worker.runner import Runner


class Work:
    """A handler whose attempts end when the test says so."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.go = asyncio.Event()
        self.cancelled: list[str] = []

    async def handle(self, assignment: Assignment) -> Any:
        self.started.append((assignment.task_id, assignment.attempt))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(assignment.task_id)
            raise
        return {"task": assignment.task_id}


class Rig:
    """One runner with everything around it."""

    def __init__(self, host: Host, clock: FakeClock, slots: int) -> None:
        self.clock, self.tasks, self.work, self.feed = clock, FakeTasks(), Work(), FakeFeed()
        kinds = {"work": Kind(handler=self.work.handle), "strict": Kind(handler=_refuse)}
        self.runner = Runner(host, self.tasks, self.feed, name="w", kinds=kinds, slots=slots)  # type: ignore[arg-type]  # a stub by its methods

    async def push(self, *messages: str | Sequence[str]) -> list[FakeDelivery]:
        return await self.feed.push(*messages)

    async def until(self, condition: Any) -> None:
        await self.tasks.until(condition)

    async def beat(self) -> None:
        """Has one more heartbeat sent; its news is applied some turns after the call."""
        before = len(self.tasks.called("Heartbeat"))
        self.runner._sessions.suspect()
        await self.until(lambda: len(self.tasks.called("Heartbeat")) > before)
        await _some_turns()


async def _refuse(assignment: Assignment) -> Any:
    raise Reject("INVALID_INPUT", f"{assignment.kind} takes nothing")


async def _some_turns() -> None:
    """Lets everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def rig(slots: int = 4, drain_seconds: float = 1.0, *, offers: bool = True) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        clock = FakeClock()
        host = Host("test", Process(drain_seconds=drain_seconds), clock, stack)
        made = Rig(host, clock, slots)
        made.tasks.takes_offers = offers
        await host.enter(made.runner.open())
        yield made
        assert host.failure is None


async def test_a_pointer_becomes_a_result():
    """Claimed, started, acknowledged, finished."""
    async with rig() as it:
        it.work.go.set()
        (delivery,) = await it.push("t1")
        await it.until(lambda: ("t1", 1) in it.tasks.outcomes)
    assert delivery.acked
    assert it.tasks.outcomes["t1", 1].result == b'{"task":"t1"}'


async def test_no_more_than_the_slots_run():
    """Two slots, five pointers: two are claimed, three wait unacknowledged until a slot is free."""
    async with rig(slots=2) as it:
        deliveries = await it.push("a", "b", "c", "d", "e")
        await it.until(lambda: len(it.work.started) == 2)
        assert [delivery.acked for delivery in deliveries] == [True, True, False, False, False]
        it.work.go.set()
        await it.until(lambda: len(it.tasks.outcomes) == 5)


async def test_a_message_is_acknowledged_when_all_of_its_pointers_are_claimed():
    """Until then its queue has it back, should this process end; what was claimed of it is then claimed for nothing."""
    async with rig(slots=2) as it:
        (first, second) = await it.push(("a", "b", "c"), ("d",))
        await it.until(lambda: len(it.work.started) == 2)
        await _some_turns()
        assert not first.acked
        it.work.go.set()
        await it.until(lambda: len(it.tasks.outcomes) == 4)
        await it.until(lambda: first.acked and second.acked)
    assert it.work.started == [(task_id, 1) for task_id in "abcd"]


async def test_what_waits_during_a_claim_is_the_next_claim():
    """Pointers that come together are claimed together."""
    async with rig(slots=10) as it:
        await it.push("a")
        await it.until(lambda: it.work.started)
        await it.push("b", "c", "d")
        await it.until(lambda: len(it.work.started) == 4)
    assert [len(request.pointers) for request in it.tasks.called("Claim")] == [1, 3]


async def test_many_that_wait_during_a_claim_are_claimed_beside_it():
    """Few of them wait for its answer; no third claim is sent, and an eighth of the slots is left for urgent ones."""
    async with rig(slots=116, offers=False) as it:
        it.tasks.answer_claims.clear()
        await it.push("a", *(f"b{number}" for number in range(49)))
        await it.until(lambda: it.tasks.called("Claim"))
        await it.push(*(f"c{number}" for number in range(7)))
        await _some_turns()
        assert [len(request.pointers) for request in it.tasks.called("Claim")] == [50]
        await it.push(*(f"d{number}" for number in range(100)))
        await _some_turns()
        assert [len(request.pointers) for request in it.tasks.called("Claim")] == [50, 52]
        it.tasks.answer_claims.set()
        await it.until(lambda: len(it.work.started) == 116)


async def test_what_is_urgent_waits_for_no_claim_of_others():
    """It is claimed alone beside them, in a slot that they left; what is not urgent waits for them."""
    async with rig(slots=208, offers=False) as it:
        it.tasks.answer_claims.clear()
        await it.push(*(f"low{number}" for number in range(300)))
        await it.until(lambda: it.tasks.called("Claim"))
        assert [len(request.pointers) for request in it.tasks.called("Claim")] == [200]
        await it.feed.push("normal", priority_class=2)
        await it.feed.push("high", "higher", priority_class=1)
        await it.until(lambda: len(it.tasks.called("Claim")) == 2)
        await _some_turns()
        urgent = it.tasks.called("Claim")[1]
        assert [pointer.task_id for pointer in urgent.pointers] == ["high", "higher"]
        assert len(it.tasks.called("Claim")) == 2
        it.tasks.answer_claims.set()
        await it.until(lambda: len(it.work.started) == 208)


async def test_a_repeated_pointer_starts_nothing_twice():
    """The same pointer again, while its attempt runs, is claimed again and acknowledged, and that is all."""
    async with rig() as it:
        await it.push("t1", "t1")
        await it.until(lambda: it.work.started)
        (again,) = await it.push("t1")
        await it.until(lambda: again.acked)
        assert it.work.started == [("t1", 1)]
    assert len(it.tasks.called("Claim")[0].pointers) == 1


async def test_an_answer_that_was_overtaken_by_the_end_starts_nothing_again():
    """A repeated pointer is granted while its attempt runs, and told only after the attempt's end is acknowledged."""
    async with rig() as it:
        await it.push("t1")
        await it.until(lambda: it.work.started)
        it.tasks.answer_claims.clear()
        (again,) = await it.push("t1")
        await it.until(lambda: len(it.tasks.called("Claim")) == 2)
        it.work.go.set()
        await it.until(lambda: it.tasks.outcomes)
        await _some_turns()
        it.tasks.answer_claims.set()
        await it.until(lambda: again.acked)
        await _some_turns()
        assert it.work.started == [("t1", 1)]


async def test_a_claim_that_fails_is_repeated():
    """An outage of the tasks service costs time and no pointer."""
    async with rig() as it:
        it.tasks.failures["Claim"] = [Unavailable()]
        (delivery,) = await it.push("t1")
        await it.until(lambda: it.work.started)
        await it.until(lambda: delivery.acked)
    assert len(it.tasks.called("Claim")) == 2


async def test_a_nonsense_pointer_does_not_hold_up_the_others():
    """A batch that is refused is claimed one by one; what holds no pointers is Invalid, which parks it."""
    async with rig() as it:
        it.tasks.failures["Claim"] = [Invalid("bad id"), Invalid("bad id")]
        deliveries = await it.push("bad", "good")
        await it.until(lambda: it.work.started == [("good", 1)])
        await it.until(lambda: all(delivery.acked for delivery in deliveries))
        with pytest.raises(Invalid):
            it.feed.take(FakeDelivery(body=b"\xff\xff"), 0)  # type: ignore[misc]
        with pytest.raises(Invalid):
            it.feed.take(FakeDelivery(), 0)  # type: ignore[misc]


async def test_outcomes_are_sent_until_they_are_acknowledged():
    """The tasks service is away when the work is done: the outcome waits and is sent again."""
    async with rig() as it:
        it.tasks.failures["Finish"] = [Unavailable(), Unavailable()]
        it.work.go.set()
        await it.push("t1")
        await it.until(lambda: ("t1", 1) in it.tasks.outcomes)
    assert len(it.tasks.called("Finish")) == 3


async def test_a_refused_outcome_ends_its_attempt_for_good():
    """A result that the service does not take becomes a permanent failure with its reason."""
    async with rig() as it:
        it.tasks.failures["Finish"] = [Invalid("too large", code="RESULT_TOO_LARGE")]
        it.work.go.set()
        await it.push("t1")
        await it.until(lambda: ("t1", 1) in it.tasks.outcomes)
    failure = it.tasks.outcomes["t1", 1].failure
    assert (failure.error.code, failure.retryable) == ("RESULT_TOO_LARGE", False)


async def test_an_unknown_kind_fails_with_a_reason():
    """A kind without a handler here is claimed and failed, never dropped."""
    async with rig() as it:
        it.tasks.kind = "other"
        await it.push("t1")
        await it.until(lambda: it.tasks.outcomes)
    assert it.tasks.outcomes["t1", 1].failure.error.code == "UNKNOWN_KIND"


async def test_a_cancelled_attempt_is_stopped_and_says_so():
    """Cancellation comes with the heartbeat, interrupts the handler, and is reported as such."""
    async with rig() as it:
        await it.push("t1", "t2")
        await it.until(lambda: len(it.work.started) == 2)
        it.tasks.cancelled.append(("t1", 1))
        await it.beat()
        await it.until(lambda: ("t1", 1) in it.tasks.outcomes)
        assert it.work.cancelled == ["t1"]
    assert it.tasks.outcomes["t1", 1].cancelled


async def test_a_fenced_attempt_is_stopped_without_a_word():
    """What the service does not count as held any more is stopped, and nothing is reported for it."""
    async with rig() as it:
        await it.push("t1", "t2")
        await it.until(lambda: len(it.work.started) == 2)
        del it.tasks.held["t1", 1]
        await it.beat()
        await it.until(lambda: it.runner.running == 1)
        assert it.work.cancelled == ["t1"]
    assert ("t1", 1) not in {(one.task_id, one.attempt) for call in it.tasks.called("Finish") for one in call.outcomes}


async def test_a_lost_session_stops_all_work_and_is_replaced():
    """SESSION_LOST: everything stops, a new session is opened, and new work is claimed under it."""
    async with rig() as it:
        await it.push("t1")
        await it.until(lambda: it.work.started)
        it.tasks.alive.clear()
        it.runner._sessions.suspect()
        await it.until(lambda: it.work.cancelled == ["t1"] and it.tasks.sessions == 2)
        await it.push("t2")
        await it.until(lambda: ("t2", 1) in it.work.started)
    assert it.tasks.called("Claim")[-1].session_id == "s2"


async def test_a_claim_that_is_answered_after_its_session_starts_nothing():
    """What it granted is somebody else's by then; only the next session's claims start work."""
    async with rig() as it:
        it.tasks.answer_claims.clear()
        (late,) = await it.push("t1")
        await it.until(lambda: it.tasks.called("Claim"))
        it.tasks.alive.clear()
        it.runner._sessions.suspect()
        await it.until(lambda: it.tasks.sessions == 2 and it.runner.serving)
        it.tasks.answer_claims.set()
        await it.until(lambda: late.acked)
        await it.push("t2")
        await it.until(lambda: it.work.started)
        assert it.work.started == [("t2", 1)]


async def test_a_claim_whose_answer_was_lost_is_handed_back():
    """Held by the service's account for two heartbeats and unknown here: given back; once is no proof."""
    async with rig() as it:
        await it.until(lambda: it.tasks.called("Heartbeat"))
        it.tasks.held["ghost", 3] = "s1"
        await it.beat()
        assert not it.tasks.called("HandBack")
        await it.beat()
        await it.until(lambda: it.tasks.called("HandBack"))
    (request,) = it.tasks.called("HandBack")
    assert list(request.attempts) == [pb.Pointer(task_id="ghost", attempt=3)]


async def test_drain_finishes_hands_back_and_closes():
    """What ends within the grace is reported, the rest handed back, and the session closed last."""
    async with rig(drain_seconds=0.2) as it:
        await it.push("t1")
        await it.until(lambda: it.work.started)
        await it.runner.drain()
        assert it.work.cancelled == ["t1"]
        assert not it.runner.serving
        assert it.feed.take is None
    assert [name for name, _ in it.tasks.calls][-3:] == ["CloseSession", "HandBack", "CloseSession"]
    assert it.tasks.held == {}


async def test_drain_waits_for_the_last_outcome():
    """A handler that ends during the grace is reported before the session closes."""
    async with rig(drain_seconds=10) as it:
        await it.push("t1")
        await it.until(lambda: it.work.started)
        draining = asyncio.ensure_future(it.runner.drain())
        await it.until(lambda: it.tasks.called("CloseSession"))
        it.work.go.set()
        await draining
    assert [name for name, _ in it.tasks.calls][-2:] == ["Finish", "CloseSession"]
