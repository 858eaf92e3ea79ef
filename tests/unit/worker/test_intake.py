"""Weighted shares over the priority classes."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from worker.intake import WEIGHTS, Intake


def _filled(counts: list[int]) -> Intake[tuple[int, int]]:
    intake: Intake[tuple[int, int]] = Intake()
    for priority_class, count in enumerate(counts):
        for number in range(count):
            intake.put((priority_class, number), priority_class, 0.0)
    return intake


def test_shares_follow_the_weights():
    """With work in every class, thirty starts are divided 16, 8, 4 and 2."""
    starts = Counter(priority_class for _, priority_class in _filled([40] * 4).take(2 * sum(WEIGHTS), 0.0))
    assert [starts[index] for index in range(4)] == [16, 8, 4, 2]


def test_the_most_urgent_goes_first():
    """The first start of a mixed crowd is the most urgent one."""
    assert _filled([1, 1, 1, 1]).take(1, 0.0) == [((0, 0), 0)]


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_everything_comes_out_once_and_in_order_within_its_class(counts: list[int]):
    """Whatever waits, each item is taken exactly once, and no class overtakes itself."""
    taken = [item for item, _ in _filled(counts).take(1000, 0.0)]
    for priority_class, count in enumerate(counts):
        assert [number for other, number in taken if other == priority_class] == list(range(count))


def test_what_is_put_back_comes_first_again():
    """A failed claim leaves the order as it was."""
    intake = _filled([0, 3, 0, 2])
    taken = intake.take(3, 1.0)
    intake.put_back(taken, 0.0)
    again = [item for item, _ in intake.take(5, 2.0)]
    assert [number for priority_class, number in again if priority_class == 1] == [0, 1, 2]
    assert len(again) == 5


def test_an_idle_class_saves_nothing_up():
    """After a long time of normal work alone, urgent work gets its share and normal work still its own."""
    intake = _filled([0, 0, 100, 0])
    intake.take(50, 0.0)
    for number in range(100):
        intake.put((0, number), 0, 0.0)
    starts = Counter(priority_class for _, priority_class in intake.take(10, 0.0))
    assert starts == {0: 8, 2: 2}


def test_stuck_is_measured_from_the_last_take():
    """Nothing waits: not stuck; a take with a rest starts the time anew; a failed claim does not."""
    intake: Intake[str] = Intake()
    assert intake.stuck_seconds(50.0) == 0.0
    intake.put("a", 0, 10.0)
    intake.put("b", 0, 20.0)
    assert intake.stuck_seconds(25.0) == 15.0
    taken = intake.take(1, 30.0)
    assert intake.stuck_seconds(31.0) == 1.0
    intake.put_back(taken, 10.0)
    assert intake.stuck_seconds(31.0) == 21.0
    intake.clear()
    assert (len(intake), intake.stuck_seconds(99.0)) == (0, 0.0)


def test_two_that_take_in_vain_do_not_hide_how_long_that_lasts():
    """Both give back what they took and take again, the second what the first left: stuck since the beginning."""
    intake: Intake[str] = Intake()
    for name in "abc":
        intake.put(name, 0, 0.0)
    for second in range(40):
        both = []
        for _ in range(2):
            since = second - intake.stuck_seconds(second)
            both.append((intake.take(1, second), since))
        for taken, since in both:
            intake.put_back(taken, since)
    assert intake.stuck_seconds(40.0) == 40.0


def test_the_most_urgent_can_be_taken_alone():
    """Of so many classes, in the same order; the others stay."""
    intake = _filled([1, 2, 3, 4])
    assert intake.count(2) == 3
    assert [item for item, _ in intake.take(10, 0.0, 2)] == [(0, 0), (1, 0), (1, 1)]
    assert (intake.count(2), len(intake)) == (0, 7)
