"""How far ahead of the workers a queue is filled."""

from services.tasks.operations.feeder import Window


def fill(window: Window) -> None:
    """Everything it may take is published."""
    window.take(["ann"] * window.credit, window.credit)


def test_a_queue_that_is_found_empty_gets_more() -> None:
    """Twice as much each time, up to a bound; one that was not filled says nothing."""
    window = Window()
    window.look(0, 0.0)
    assert window.size == 64
    for expected in (128, 256, 512, 1024, 2048, 2048):
        fill(window)
        window.look(0, 0.0)
        assert (window.size, window.credit) == (expected, expected)


def test_a_queue_in_which_pointers_lie_about_gets_less() -> None:
    """Down to a bound, so that another owner's turn comes soon; what is over the bound is waited for."""
    window = Window()
    for _ in range(10):
        fill(window)
        window.look(60, 0.0)
    assert (window.size, window.credit) == (32, -28)
    window.look(20, 0.0)
    assert window.credit == 12


def test_a_queue_is_looked_at_when_half_of_it_may_be_gone() -> None:
    """And not more often than every twenty milliseconds."""
    window = Window()
    window.look(0, 10.0)
    window.take(["ann"] * 31, 64)
    assert not window.wants_look(11.0)
    window.take(["ann"], 64)
    assert not window.wants_look(10.01)
    assert window.wants_look(10.03)


def test_the_next_round_begins_after_the_last_owner() -> None:
    """When there was more than could be taken; else it begins with the first one."""
    window = Window()
    window.take(["ann", "bob"], 2)
    assert window.after_owner == "bob"
    window.take(["cid"], 2)
    assert window.after_owner == ""


def test_the_short_way_is_for_queues_with_room_in_which_nobody_waits() -> None:
    """Not before a look at the table; one that finds no room waits, and those behind it with it."""
    window = Window()
    assert not window.reserve()
    window.take([], window.credit)
    assert [window.reserve() for _ in range(65)] == [True] * 64 + [False]
    window.look(0, 0.0)
    assert not window.reserve()
    window.take(["ann"], window.credit)
    assert window.reserve()
