"""Ids: in the order in which they were made, and found again by their moment."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from services.tasks.model import ids
from services.tasks.model.ids import Ids, first_id
from services.tasks.operations.checks import is_task_id

MOMENT = datetime(2026, 11, 22, 4, 30, 0, 123_000, UTC)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still."""
    monkeypatch.setattr(ids, "time_ns", lambda: int(MOMENT.timestamp() * 1000) * 1_000_000)


@pytest.mark.usefixtures("stopped")
def test_each_id_sorts_after_the_one_before() -> None:
    """Also of one millisecond, however the random part falls; none comes twice."""
    made = Ids()
    several = [made.new("task") for _ in range(1000)]
    assert several == sorted(set(several))
    assert all(map(is_task_id, several))


@pytest.mark.usefixtures("stopped")
def test_ids_of_a_moment_lie_between_it_and_the_next_millisecond() -> None:
    """So a day, or all that is older than a moment, is a range of ids."""
    one = Ids().new("dlv")
    assert first_id("dlv", MOMENT) < one < first_id("dlv", MOMENT + timedelta(milliseconds=1))
    assert one.startswith(first_id("dlv", MOMENT))


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(("back", "goes_on"), [(timedelta(milliseconds=900), True), (timedelta(days=30), False)])
def test_ids_go_on_when_the_clock_goes_back_a_little(
    monkeypatch: pytest.MonkeyPatch, back: timedelta, goes_on: bool
) -> None:
    """But a clock that was far ahead, and was set right, is followed."""
    made = Ids()
    before = made.new("task")
    monkeypatch.setattr(ids, "time_ns", lambda: int((MOMENT - back).timestamp() * 1000) * 1_000_000)
    after = made.new("task")
    assert (after > before) is goes_on
    assert goes_on or after.startswith(first_id("task", MOMENT - back))


def test_the_random_part_of_each_id_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that one asking of the system made: in other milliseconds nothing else tells them apart."""
    moments = count(int(MOMENT.timestamp() * 1000) * 1_000_000, 1_000_000)
    monkeypatch.setattr(ids, "time_ns", lambda: next(moments))
    several = [maker.new("task") for maker in (Ids(), Ids()) for _ in range(1000)]
    # A ULID has ten digits of the moment and sixteen of chance.
    assert len({one[-16:] for one in several}) == len(several)
