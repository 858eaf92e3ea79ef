"""The audit of the fault runs finds what it is there to find."""

import json
from collections.abc import Callable

import pytest
from mesh.tasks.v1 import tasks_pb2 as pb

from tests.support.faults.audit import Record, faults_of
from tests.support.faults.plan import INSIDE, OUTSIDE, SERVICES, STORES, Fault, draw


def _record() -> Record:
    """A task that failed once and then succeeded."""
    story = [("queued", 0), ("started", 1), ("retrying", 1), ("queued", 1), ("started", 2), ("succeeded", 2)]
    events = [pb.Event(sequence=number, type=kind, attempt=at) for number, (kind, at) in enumerate(story, 1)]
    result = json.dumps({"attempt": 2}).encode()
    return Record(pb.Task(id="task_1", state=pb.STATE_SUCCEEDED, attempt=2, result=result), events)


def test_a_good_task_has_no_fault():
    """What happened as it should is not complained of."""
    assert not list(faults_of(_record()))


def _lose(record: Record) -> None:
    record.events.pop(2)  # type: ignore[attr-defined]  # a list


def _end_twice(record: Record) -> None:
    record.events.append(pb.Event(sequence=7, type="failed", attempt=2))  # type: ignore[attr-defined]  # a list


def _repeat(record: Record) -> None:
    record.events[4].attempt = 1


def _take_an_old_result(record: Record) -> None:
    record.task.result = json.dumps({"attempt": 1}).encode()


def _take_an_old_attempt(record: Record) -> None:
    record.task.attempt = 1


def _stay(record: Record) -> None:
    record.task.state = pb.STATE_RUNNING


@pytest.mark.parametrize("harm", [_lose, _end_twice, _repeat, _take_an_old_result, _take_an_old_attempt, _stay])
def test_a_planted_fault_is_found(harm: Callable[[Record], None]):
    """An event that is lost, a second end, an attempt that comes twice, a fenced result, a task that hangs."""
    record = _record()
    harm(record)
    assert list(faults_of(record))


@pytest.mark.parametrize("everything", [False, True])
def test_a_plan_is_had_again_by_its_seed(everything: bool):
    """The same seed means the same faults, and within some time everything is harmed."""

    def drawn(seed: int) -> list[Fault]:
        return draw(seed, 600, every_seconds=2.5, everything=everything)

    assert drawn(1) == drawn(1) != drawn(2)
    assert {fault.target for fault in drawn(1)} >= {*STORES, *SERVICES, *INSIDE, *OUTSIDE}
