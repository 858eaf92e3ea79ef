"""A runner that offers slots: what comes in them runs, what comes by pointer finds room, and nothing is lost or begun
twice.
"""

import asyncio
from typing import Any

import pytest
from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.errors import NotFound, Unavailable
from tests.unit.worker.test_runner import Rig, _some_turns, rig
from worker.orphans import Orphans


async def offered(it: Rig, most: int) -> None:
    """Waits until so many slots are offered."""
    await it.until(lambda: it.tasks.called("Offer") and it.tasks.called("Offer")[-1].most == most)


def push(it: Rig, *task_ids: str, most: int = 0, session: str = "s1") -> None:
    """Begins these for the session, and sends them."""
    for task_id in task_ids:
        it.tasks.held[task_id, 1] = session
    tasks = [pb.Claimed(task_id=task_id, attempt=1, kind="work", payload=b"{}") for task_id in task_ids]
    said = it.tasks.called("Offer")
    since = max(number for number, request in enumerate(said) if request.session_id == session)
    answer = pb.OfferResponse(claimed=tasks, most=most or said[-1].most, heard=len(said) - since)
    it.tasks.offers[session].put_nowait(answer)


def streams(it: Rig) -> list[Any]:
    """The first words of all that were opened."""
    return [request for request in it.tasks.called("Offer") if request.session_id]


async def test_what_comes_in_a_slot_runs_without_a_claim() -> None:
    """Seven of eight free slots are offered; what came is acknowledged, and as many are offered anew."""
    async with rig(slots=16) as it:
        await offered(it, 14)
        push(it, "a", "b")
        await it.until(lambda: it.work.started == [("a", 1), ("b", 1)])
        # Fourteen slots are free now, and thirteen of them offered.
        await offered(it, 15)
        assert it.tasks.called("Offer")[-1].received == 2
        it.work.go.set()
        await it.until(lambda: len(it.tasks.outcomes) == 2)
    assert it.tasks.called("Claim") == []


async def test_no_more_are_offered_than_a_service_fills() -> None:
    async with rig(slots=2000) as it:
        await offered(it, 1000)


async def test_a_single_slot_is_offered_until_a_pointer_comes() -> None:
    """Then it is taken back, and used once the service has said so; a task that was on its way comes first."""
    async with rig(slots=1) as it:
        await offered(it, 1)
        it.tasks.confirms = False
        await it.push("b")
        await it.until(lambda: [request.most for request in it.tasks.called("Offer")] == [1, 0])
        await _some_turns()
        assert it.tasks.called("Claim") == []
        push(it, "a", most=1)
        await it.until(lambda: it.work.started == [("a", 1)])
        await _some_turns()
        assert it.tasks.called("Claim") == []
        it.work.go.set()
        await it.until(lambda: it.work.started == [("a", 1), ("b", 1)])


async def test_a_confirmed_slot_is_claimed_for() -> None:
    """Nothing was on its way."""
    async with rig(slots=2) as it:
        await offered(it, 2)
        await it.push("a", "b", "c")
        await it.until(lambda: len(it.work.started) == 2)
        await _some_turns()
        assert [one.task_id for request in it.tasks.called("Claim") for one in request.pointers] == ["a", "b"]
        assert it.runner._offers.open == 0


async def test_an_older_answer_confirms_nothing_newer() -> None:
    """What was said after the words that it has heard may hold, and be filled, whatever it says."""
    async with rig(slots=8) as it:
        await offered(it, 7)
        it.tasks.confirms = False
        push(it, "a", "b", "c", "d")
        await it.until(lambda: it.tasks.called("Offer")[-1].received == 4)
        raised = it.tasks.called("Offer")[-1].most
        await it.push(*(f"p{number}" for number in range(8)))
        await it.until(lambda: it.tasks.called("Offer")[-1].most < raised)
        # An answer from before it was raised.
        it.tasks.offers["s1"].put_nowait(pb.OfferResponse(most=4, heard=1))
        await _some_turns()
        assert it.runner._offers.open == raised - 4
        lowered = it.tasks.called("Offer")
        it.tasks.offers["s1"].put_nowait(pb.OfferResponse(most=lowered[-1].most, heard=len(lowered)))
        await it.until(lambda: it.runner._offers.open == lowered[-1].most - 4)


@pytest.mark.parametrize("silent", ["first word", "slots taken back", "end"])
async def test_a_service_that_hangs_is_left(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that it might still fill is used all the same: what comes for it would never begin."""
    monkeypatch.setattr("worker.offers._ANSWERS_WITHIN_SECONDS", 0.05)
    async with rig(slots=1, drain_seconds=10) as it:
        it.tasks.hangs = silent == "first word"
        await offered(it, 1)
        it.tasks.confirms, it.tasks.lasts = False, True
        if silent == "end":
            await it.runner.drain()
            assert it.runner._offers._closed.is_set()
            return
        if silent == "first word":
            await it.until(lambda: len(streams(it)) == 2)
        it.work.go.set()
        await it.push("a", "b")
        await it.until(lambda: len(it.tasks.outcomes) == 2)


async def test_a_service_that_answers_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have nothing to say for long, after the first word and after slots were taken back."""
    monkeypatch.setattr("worker.offers._ANSWERS_WITHIN_SECONDS", 0.05)
    async with rig(slots=1) as it:
        await offered(it, 1)
        it.work.go.set()
        await it.push("a", "b")
        await it.until(lambda: len(it.tasks.outcomes) == 2)
        await asyncio.sleep(0.2)
        assert len(streams(it)) == 1


async def test_what_was_being_filled_confirms_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service has nothing more to say of slots that were taken back, once their tasks have come."""
    monkeypatch.setattr("worker.offers._ANSWERS_WITHIN_SECONDS", 0.1)
    async with rig(slots=2) as it:
        await offered(it, 2)
        it.tasks.confirms = False
        await it.push("p", "q")
        await it.until(lambda: it.tasks.called("Offer")[-1].most == 0)
        it.tasks.offers["s1"].put_nowait(pb.OfferResponse(most=2, heard=len(it.tasks.called("Offer"))))
        push(it, "a", "b", most=2)
        await it.until(lambda: len(it.work.started) == 2)
        await asyncio.sleep(0.3)
        assert len(streams(it)) == 1


async def test_slots_of_a_lost_session_are_free_for_the_next() -> None:
    """Also while its stream has not ended."""
    async with rig(slots=1) as it:
        await offered(it, 1)
        it.tasks.lasts = True
        it.tasks.alive.discard("s1")
        await it.beat()
        await it.until(lambda: it.runner._sessions.current == "s2")
        assert it.runner._free() == 1


async def test_what_arrives_after_its_lease_waits_for_a_heartbeat() -> None:
    """A process that stood still reads it before it hears that others do it by now; what it holds after all it begins.
    Meanwhile it has a slot.
    """
    async with rig(slots=4) as it:
        await offered(it, 4)
        await it.until(lambda: it.tasks.called("Heartbeat"))
        await _some_turns()
        it.runner._sessions._lease_seconds = 0
        it.tasks.failures["Heartbeat"] = [Unavailable()]
        push(it, "a", "b")
        del it.tasks.held["b", 1]
        await it.until(lambda: not it.tasks.failures["Heartbeat"])
        await it.push("c", "d", "e")
        await it.until(lambda: len(it.work.started) == 2)
        await _some_turns()
        assert it.work.started == [("c", 1), ("d", 1)]
        await it.beat()
        await it.until(lambda: it.work.started == [("c", 1), ("d", 1), ("a", 1), ("e", 1)])


async def test_what_arrives_after_its_lease_goes_with_its_session() -> None:
    """It was lost, and the next one begins with all slots free."""
    async with rig(slots=2) as it:
        await offered(it, 2)
        it.runner._sessions._lease_seconds = 0
        push(it, "a")
        it.tasks.alive.discard("s1")
        await it.until(lambda: it.tasks.called("Offer")[-1].session_id == "s2")
        await it.push("b", "c")
        await it.until(lambda: it.work.started == [("b", 1), ("c", 1)])


async def test_what_arrives_after_a_drain_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session was closed, and it is queued again."""
    monkeypatch.setattr("worker.offers._ANSWERS_WITHIN_SECONDS", 60)
    async with rig(slots=4, drain_seconds=0.1) as it:
        await offered(it, 4)
        it.tasks.lasts = True
        await it.runner.drain()
        push(it, "a")
        await _some_turns()
    assert it.work.started == []


async def test_slots_are_offered_again_when_no_pointer_waits() -> None:
    """Those who wait are first, also where a slot is free beside them because the service does not answer."""
    async with rig(slots=9) as it:
        await offered(it, 8)
        it.tasks.answer_claims.clear()
        await it.push("a")
        await it.until(lambda: it.tasks.called("Claim"))
        await it.push("b", "c")
        push(it, "o", "p", "q", "r", "s")
        await it.until(lambda: len(it.work.started) == 5)
        await _some_turns()
        # Four slots are free: for one that is asked for, for two that wait, and for what is still offered.
        assert (it.tasks.called("Offer")[-1].most, it.runner._offers.open) == (6, 1)
        it.tasks.answer_claims.set()
        it.work.go.set()
        await it.until(lambda: len(it.tasks.outcomes) == 8)
        await offered(it, 13)


async def test_no_more_run_than_there_are_slots() -> None:
    """Whatever comes by pointers and in offered slots at once."""
    most = 0

    async def count(it: Rig) -> None:
        nonlocal most
        while True:
            most = max(most, it.runner.running)
            await asyncio.sleep(0)

    async with rig(slots=5) as it:
        await offered(it, 5)
        counting = asyncio.ensure_future(count(it))
        it.work.go.set()
        for number in range(50):
            await it.push(*(f"p{number}{letter}" for letter in "abc"))
            if it.runner._offers.open > 0:
                push(it, f"o{number}")
            await asyncio.sleep(0.002)
        await it.until(lambda: not it.tasks.held)
        counting.cancel()
    assert 2 < most <= 5


async def test_what_is_lost_with_its_stream_is_handed_back_soon() -> None:
    """By two heartbeats of its own, not by the next ones; should it arrive after all, it is not begun."""
    async with rig(slots=4) as it:
        await offered(it, 4)
        push(it, "a")
        await it.until(lambda: it.work.started)
        it.tasks.held["lost", 1] = "s1"
        it.tasks.offers["s1"].put_nowait(Unavailable())
        await it.until(lambda: it.tasks.called("HandBack"))
        (request,) = it.tasks.called("HandBack")
        assert list(request.attempts) == [pb.Pointer(task_id="lost", attempt=1)]
        await it.until(lambda: len(streams(it)) == 2)
        push(it, "lost", "b")
        await it.until(lambda: it.work.started == [("a", 1), ("b", 1)])


async def test_who_asks_for_more_after_the_break_hears_that_there_is_none() -> None:
    """The library goes on reading the requests of a call that has ended until it sends one."""
    async with rig(slots=4) as it:
        await offered(it, 4)
        it.tasks.lasts = True
        it.tasks.offers["s1"].put_nowait(Unavailable())
        await it.until(lambda: it.tasks.asking and it.tasks.asking[0].done())


async def test_a_stream_that_ended_in_order_loses_nothing() -> None:
    """Another is opened, and nobody is asked what is missing."""
    async with rig(slots=4) as it:
        await offered(it, 4)
        before = len(it.tasks.called("Heartbeat"))
        it.tasks.offers["s1"].put_nowait(None)
        await it.until(lambda: len(streams(it)) == 2)
        assert len(it.tasks.called("Heartbeat")) == before


async def test_what_comes_for_a_lost_session_is_not_begun() -> None:
    """It is somebody else's by now; the next session offers anew."""
    async with rig(slots=4) as it:
        await offered(it, 4)
        it.tasks.alive.discard("s1")
        await it.beat()
        await it.until(lambda: it.tasks.called("Offer")[-1].session_id == "s2")
        it.tasks.offers["s1"].put_nowait(pb.OfferResponse(claimed=[pb.Claimed(task_id="a", attempt=1, kind="work")]))
        push(it, "b", session="s2")
        await it.until(lambda: it.work.started)
        await _some_turns()
    assert it.work.started == [("b", 1)]


async def test_what_was_accepted_before_a_drain_is_done() -> None:
    """The stream ends after it, and only then the worker waits for what runs."""
    async with rig(slots=4, drain_seconds=10) as it:
        await offered(it, 4)
        it.tasks.lasts = True
        draining = asyncio.ensure_future(it.runner.drain())
        await it.until(lambda: it.tasks.called("CloseSession"))
        push(it, "a")
        it.tasks.offers["s1"].put_nowait(None)
        await it.until(lambda: it.work.started)
        it.work.go.set()
        await draining
        assert ("a", 1) in it.tasks.outcomes


async def test_a_stop_that_overtakes_its_task_stops_it() -> None:
    """It never begins, and is reported as cancelled."""
    async with rig(slots=4) as it:
        await offered(it, 4)
        await it.until(lambda: it.tasks.streams)
        it.tasks.streams["s1"].put_nowait([("a", 1)])
        await _some_turns()
        push(it, "a")
        await it.until(lambda: ("a", 1) in it.tasks.outcomes)
        assert (it.work.started, it.tasks.outcomes["a", 1].cancelled) == ([], True)


async def test_without_the_method_the_worker_works_by_pointers() -> None:
    """A service of an earlier release has none; what is offered to nobody is free."""
    async with rig(slots=2, offers=False) as it:
        it.work.go.set()
        await it.push("a", "b", "c")
        await it.until(lambda: len(it.tasks.outcomes) == 3)


async def test_a_session_that_the_service_does_not_know_is_asked_about() -> None:
    """It may be lost; until that is known the worker offers to nobody."""
    async with rig(slots=2) as it:
        await offered(it, 2)
        before = len(it.tasks.called("Heartbeat"))
        it.tasks.offers["s1"].put_nowait(NotFound(code="SESSION_LOST"))
        await it.until(lambda: len(it.tasks.called("Heartbeat")) > before)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        pytest.param([], {("a", 1)}, id="none"),
        pytest.param([1], {("a", 1)}, id="sent after the first look"),
        pytest.param([0], set(), id="sent before it"),
    ],
)
def test_what_a_claim_may_still_bring_is_not_missing(claims: list[int], expected: set[Any]) -> None:
    """However many claims are on their way all the time, those that were sent since the first look are no reason."""
    orphans = Orphans()
    assert orphans.look({("a", 1)}, []) == set()
    assert orphans.look({("a", 1), ("b", 1)}, claims) == expected
    assert (("a", 1) in orphans) is bool(expected)
    assert orphans.look({("b", 1)}, []) == {("b", 1)}


def test_what_arrived_between_two_looks_is_not_missing() -> None:
    orphans = Orphans()
    for unknown in ({("a", 1)}, set(), {("a", 1)}):
        assert orphans.look(unknown, []) == set()
