"""Outcomes on their way: batches, sessions, and one bad one among many."""

import asyncio

from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.errors import Invalid, NotFound
from tests.unit.worker.fakes import FakeTasks
from worker.reporter import Reporter


async def _report(tasks: FakeTasks, *outcomes: tuple[str, pb.Outcome]) -> None:
    """Hands all over at once and waits until nothing is left."""
    reporter = Reporter(tasks)  # type: ignore[arg-type]  # a stub by its methods
    for session_id, outcome in outcomes:
        tasks.held[outcome.task_id, outcome.attempt] = session_id
        reporter.put(session_id, outcome)
    assert len(reporter.keys) == len(outcomes)
    running = asyncio.ensure_future(reporter.run())
    await reporter.wait_empty()
    running.cancel()
    assert reporter.keys == set()


def _outcome(number: int, size: int = 1) -> pb.Outcome:
    return pb.Outcome(task_id=f"t{number}", attempt=1, result=b"x" * size)


async def test_outcomes_travel_in_batches_by_session():
    """At most two hundred, and never two sessions in one."""
    tasks = FakeTasks()
    await _report(tasks, *(("s1", _outcome(number)) for number in range(250)), ("s2", _outcome(999)))
    sizes = [(request.session_id, len(request.outcomes)) for request in tasks.called("Finish")]
    assert sizes == [("s1", 200), ("s1", 50), ("s2", 1)]


async def test_no_outcome_is_on_its_way_twice():
    """A second batch is sent beside the first when many wait; of few none is."""
    tasks, sent = FakeTasks(), asyncio.Event()
    tasks.answer_outcomes = sent
    reporter = Reporter(tasks)  # type: ignore[arg-type]  # a stub by its methods
    running = asyncio.ensure_future(reporter.run())
    for first, count in ((0, 1), (1, 49), (50, 60), (110, 60)):
        for number in range(first, first + count):
            reporter.put("s1", _outcome(number))
        # Turns and no time: whatever can be sent is sent within them.
        for _ in range(20):
            await asyncio.sleep(0)
    assert [len(request.outcomes) for request in tasks.called("Finish")] == [1, 109]
    sent.set()
    await reporter.wait_empty()
    running.cancel()
    named = [outcome.task_id for request in tasks.called("Finish") for outcome in request.outcomes]
    assert sorted(named) == sorted({f"t{number}" for number in range(170)})


async def test_large_outcomes_travel_in_smaller_batches():
    """A message stays well below the limit of the transport."""
    tasks = FakeTasks()
    await _report(tasks, *(("s1", _outcome(number, 1_500_000)) for number in range(4)))
    assert [len(request.outcomes) for request in tasks.called("Finish")] == [2, 2]


async def test_one_refused_outcome_does_not_hold_up_the_others():
    """The batch is sent apart; the refused one becomes a permanent failure."""
    tasks = FakeTasks()
    tasks.failures["Finish"] = [Invalid("one is bad"), Invalid("too large", code="RESULT_TOO_LARGE")]
    await _report(tasks, ("s1", _outcome(1)), ("s1", _outcome(2)))
    assert tasks.outcomes["t1", 1].failure.error.code == "RESULT_TOO_LARGE"
    assert tasks.outcomes["t2", 1].result == b"x"


async def test_outcomes_of_a_lost_session_are_dropped():
    """They would have no effect."""
    tasks = FakeTasks()
    tasks.failures["Finish"] = [NotFound(code="SESSION_LOST")]
    await _report(tasks, ("s1", _outcome(1)))
    assert tasks.outcomes == {}
