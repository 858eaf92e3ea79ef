"""Frames of one subject come in order, once, and none waits for ever."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.live.frames import Frame
from services.gateway.live.order import HOLD_SECONDS, Order


def frame(sequence: int, subject: str = "e1") -> Frame:
    return Frame(text="", key=str(sequence), subject=subject, sequence=sequence)


def sequences(frames: list[Frame]) -> list[int]:
    return [each.sequence for each in frames]


@given(st.permutations(range(1, 8)), st.lists(st.integers(1, 7), max_size=10))
def test_whatever_comes_goes_out_in_order_and_once(arrival, again):
    """In any order of arrival, with any of them twice."""
    order = Order()
    out: list[int] = []
    for sequence in (*arrival, *again):
        out += sequences(order.accept(frame(sequence), 0.0))
    assert out == list(range(1, 8))


def test_subjects_do_not_wait_for_each_other():
    """A gap in one holds up no other."""
    order = Order()
    assert order.accept(frame(2, "slow"), 0.0) == []
    assert sequences(order.accept(frame(1, "quick"), 0.0)) == [1]


def test_what_has_no_order_goes_at_once():
    """Figures of the machine, for one."""
    assert len(Order().accept(Frame(text="x"), 0.0)) == 1


def test_a_subject_is_overdue_when_its_predecessor_does_not_come():
    """What was published while nobody listened never comes."""
    order = Order()
    order.accept(frame(3), 10.0)
    order.accept(frame(4), 11.0)
    assert order.overdue(10.0 + HOLD_SECONDS - 0.1) == []
    assert order.overdue(10.0 + HOLD_SECONDS) == ["e1"]


def test_history_fills_what_is_missing_and_repeats_nothing():
    """Also when the bus told it in another order; what waited and is in the history is not told twice."""
    order = Order()
    order.accept(frame(1), 0.0)
    order.accept(Frame(text="", key="c", subject="e1", sequence=2), 0.0)
    order.accept(Frame(text="", key="d", subject="e1", sequence=4), 0.0)
    history = [Frame(text="", key=key, subject="e1", sequence=9) for key in ("1", "b", "c", "d")]
    assert [each.key for each in order.catch_up("e1", history)] == ["b", "d"]
    assert order.accept(frame(4), 0.0) == []
    assert sequences(order.accept(frame(5), 0.0)) == [5]


def test_without_a_history_one_goes_on():
    """Late is better than never; what then still comes is dropped, so order holds."""
    order = Order()
    order.accept(frame(2), 0.0)
    assert sequences(order.go_on("e1")) == [2]
    assert order.accept(frame(1), 5.0) == []
    assert sequences(order.accept(frame(3), 5.0)) == [3]


def test_a_subject_is_unfinished_until_its_last_frame():
    """Only those are looked up after the bus was away."""
    order = Order()
    order.accept(frame(1), 0.0)
    assert order.unfinished() == ["e1"]
    order.accept(Frame(text="", key="end", subject="e1", sequence=2, last=True), 0.0)
    assert order.unfinished() == []


def test_it_remembers_a_bounded_number_of_subjects():
    """The oldest are forgotten."""
    order = Order()
    for number in range(50_050):
        order.accept(frame(1, f"e{number}"), 0.0)
    assert len(order._subjects) == 50_000
