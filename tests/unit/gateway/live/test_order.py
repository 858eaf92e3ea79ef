"""Frames of one subject come in order, once, and none waits for ever."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.live.frames import Frame
from services.gateway.live.order import HOLD_SECONDS, Order


def frame(sequence: int, subject: str = "e1") -> Frame:
    return Frame(text=f"{subject}:{sequence}", subject=subject, sequence=sequence)


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


def test_a_frame_waits_for_its_predecessor_so_long_and_no_longer():
    """What was published while nobody listened never comes."""
    order = Order()
    order.accept(frame(3), 10.0)
    order.accept(frame(4), 11.0)
    assert order.overdue(10.0 + HOLD_SECONDS - 0.1) == []
    assert sequences(order.overdue(10.0 + HOLD_SECONDS)) == [3, 4]
    assert order.gaps == 1


def test_a_late_predecessor_is_dropped():
    """Order holds once one went on without it."""
    order = Order()
    order.accept(frame(2), 0.0)
    order.overdue(HOLD_SECONDS)
    assert order.accept(frame(1), 5.0) == []
    assert sequences(order.accept(frame(3), 5.0)) == [3]


def test_it_remembers_a_bounded_number_of_subjects():
    """The oldest are forgotten."""
    order = Order()
    for number in range(10_050):
        order.accept(frame(1, f"e{number}"), 0.0)
    assert len(order._subjects) == 10_000
