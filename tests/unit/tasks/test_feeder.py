"""How far ahead of the workers a queue is filled."""

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from services.tasks.model.states import Priority
from services.tasks.model.work import Queue, WaitingPointer
from services.tasks.operations.feeder import Feeder, Window
from tests.support.clock import FakeClock

_AT = datetime(2026, 1, 1, tzinfo=UTC)


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
    """When there was more than could be taken, of several; else it begins with the first one."""
    window = Window()
    window.take(["ann", "bob"], 2)
    assert window.after_owner == "bob"
    window.take(["cid"], 2)
    assert (window.after_owner, window.waits) == ("", True)
    window.take(["ann", "ann"], 2)
    assert (window.after_owner, window.waits) == ("", True)
    window.take(["ann"], 2)
    assert not window.waits


def test_the_short_way_is_for_queues_of_which_nothing_waits_in_the_table() -> None:
    """Not before a look at it; when too many wait for room the next goes there, and those behind it with it."""
    window = Window()
    assert not window.lets_pass(0)
    window.take([], window.credit)
    assert window.lets_pass(0)
    assert window.lets_pass(8191)
    assert not window.lets_pass(8192)
    window.look(0, 0.0)
    assert not window.lets_pass(0)
    window.take(["ann"], window.credit)
    assert window.lets_pass(0)


def test_there_is_as_much_room_as_the_window_has() -> None:
    """Also where more pointers lie in the queue than it may hold now."""
    window = Window()
    assert [window.reserve(40), window.reserve(40), window.reserve(1)] == [40, 24, 0]
    window.look(90, 0.0)
    assert window.reserve(1) == 0


class _Backlog:
    """A table with a backlog of one owner, and queues that are always empty."""

    left = 1000

    async def feed(self, queues: Sequence[Queue], _publish: object) -> list[WaitingPointer]:
        (wanted,) = (queue for queue in queues if queue.priority is Priority.NORMAL)
        count = 0 if wanted.after_owner else min(wanted.most, self.left)
        self.left -= count
        return [
            WaitingPointer(
                lane="",
                group=wanted.group,
                priority=wanted.priority,
                owner_id="ann",
                seq=number,
                task_id=f"t{number}",
                attempt=0,
                traceparent="",
                at=_AT,
            )
            for number in range(count)
        ]

    async def recall_direct(self, _older_seconds: float) -> int:
        return 0

    async def count_ready(self, _group: str, _priority: Priority) -> int:
        return 0


async def test_a_backlog_is_fed_without_long_rests() -> None:
    """Also when the turn begins with the first owner again: a round in which nobody was left is no end."""
    backlog: Any = _Backlog()
    figures: Any = SimpleNamespace(any_bounds=False, groups=("builtin",))
    clock = FakeClock()
    feeder = Feeder(backlog, backlog, figures, backlog, clock=clock)
    while backlog.left:
        rest = await feeder.feed()
        assert rest <= 0.02 or not backlog.left
        clock.advance(0.02)
