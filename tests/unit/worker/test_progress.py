"""Progress reports: seldom, bounded, and a way to learn that an attempt is lost."""

from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.errors import Unavailable
from tests.support.clock import FakeClock
from tests.unit.worker.fakes import FakeTasks
from worker.progress import Progress


def _progress(tasks: FakeTasks, clock: FakeClock, fenced: list[tuple[str, int]]) -> Progress:
    claimed = pb.Claimed(task_id="t", attempt=1)
    tasks.held.setdefault(("t", 1), "s1")
    return Progress(tasks, clock, "s1", claimed, fenced.append)  # type: ignore[arg-type]  # a stub by its methods


async def test_at_most_one_report_a_second():
    """Two at once are one; a second later there is another. Fractions stay within their bounds."""
    tasks, clock = FakeTasks(), FakeClock()
    progress = _progress(tasks, clock, [])
    await progress.report(0.1, "")
    await progress.report(0.2, "")
    clock.advance(1.0)
    await progress.report(7.0, "done")
    assert [request.progress for request in tasks.called("Progress")] == [0.1, 1.0]


async def test_a_stale_answer_fences_the_attempt():
    """The attempt is another worker's: whoever runs it is told."""
    tasks = FakeTasks()
    fenced: list[tuple[str, int]] = []
    progress = _progress(tasks, FakeClock(), fenced)
    tasks.held.clear()
    await progress.report(0.5, "")
    assert fenced == [("t", 1)]


async def test_a_report_that_cannot_be_delivered_is_left_out():
    """The work goes on."""
    tasks = FakeTasks()
    fenced: list[tuple[str, int]] = []
    tasks.failures["Progress"] = [Unavailable()]
    await _progress(tasks, FakeClock(), fenced).report(0.5, "")
    assert fenced == []
