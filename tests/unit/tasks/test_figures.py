"""Measured figures: kinds, admission, positions, estimates, and what is added up meanwhile."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from chassis.errors import Exhausted, Invalid
from services.tasks.model import rules
from services.tasks.model.figures import Channel, ChannelTally, Depth, Rate, Tallies, Tally, estimate_seconds
from services.tasks.model.states import Priority, State
from services.tasks.model.task import Accepted, Kind
from services.tasks.operations.figures import Figures, Limits
from tests.support.clock import FakeClock
from tests.unit.tasks.test_checks import KIND, check
from tests.unit.tasks.test_rules import NOW, live


class FakeFigures:
    """The figures' part of the store, in memory."""

    def __init__(self) -> None:
        self.kinds = [KIND]
        self.reads = 0
        self.run_seconds = 0.5
        self.depths: list[Depth] = []
        self.workers: list[Any] = []
        self.tallies: list[tuple[str, Tallies]] = []

    async def read_kinds(self) -> Sequence[Kind]:
        self.reads += 1
        return self.kinds

    async def read_depths(self) -> tuple[Sequence[Depth], Sequence[Channel]]:
        return self.depths, []

    async def read_workers(self) -> Sequence[Any]:
        return self.workers

    async def read_rates(self) -> Sequence[Rate]:
        return [Rate(group="builtin", ended_per_second=2.0, mean_run_seconds=self.run_seconds, ended=10, failed=1)]

    async def add_tallies(self, instance: str, tallies: Tallies) -> None:
        self.tallies.append((instance, tallies))


def make(store: FakeFigures, *, most_queued: int = 10, backlog: int = 0, clock: FakeClock | None = None) -> Figures:
    return Figures(store, clock or FakeClock(), lambda: backlog, limits=Limits(most=most_queued), most_unpublished=100)  # type: ignore[arg-type]  # the part that is asked


def accepted(state: State = State.QUEUED, *, replayed: bool = False) -> Accepted:
    class Seen:
        def __init__(self) -> None:
            self.state = state

    return Accepted(task=Seen(), replayed=replayed)  # type: ignore[arg-type]  # only its state is looked at


async def test_a_kind_that_was_just_announced_elsewhere_is_found() -> None:
    """A miss reads again; an unknown one is refused with the known list."""
    store = FakeFigures()
    figures = make(store)
    assert await figures.find_kind("automation") == KIND
    store.kinds = [KIND, Kind(kind="new", group="g", max_attempts=1, timeout_seconds=1)]
    assert (await figures.find_kind("new")).group == "g"
    with pytest.raises(Invalid) as caught:
        await figures.find_kind("other")
    assert caught.value.details == {"known": "automation, new"}
    assert figures.groups == ["builtin", "g"]


async def test_admission_counts_what_was_accepted_since_the_last_look() -> None:
    """The bound holds between two looks, and another group has its own."""
    store = FakeFigures()
    store.depths = [Depth(group="builtin", priority=Priority.LOW, queued=8, running=5)]
    figures = make(store)
    await figures.refresh("one")
    with figures.admitted(["builtin"]):
        figures.count_accepted(check(), accepted())
    with figures.admitted(["builtin"]), pytest.raises(Exhausted), figures.admitted(["builtin"]):
        pytest.fail("there is no place for a second one while the first is being written")
    with figures.admitted(["builtin"]):
        figures.count_accepted(check(), accepted(State.SCHEDULED))
    with pytest.raises(Exhausted), figures.admitted(["builtin"]):
        pytest.fail("there is no place any more")
    with figures.admitted(["agents"] * 10):
        assert figures.count_waiting("builtin") == 10


async def test_a_look_forgets_what_it_has_seen_and_nothing_else() -> None:
    """What is accepted while the depths are read is counted on, so that the bound is never passed."""
    store = FakeFigures()
    figures = make(store)
    figures.count_accepted(check(), accepted())

    async def read_late() -> tuple[Sequence[Depth], Sequence[Channel]]:
        figures.count_accepted(check(), accepted())
        return [Depth(group="builtin", priority=Priority.NORMAL, queued=1, running=0)], []

    store.read_depths = read_late  # type: ignore[method-assign]  # the moment in between
    await figures.refresh("one")
    assert figures.count_waiting("builtin") == 2


async def test_what_others_may_fill_too_is_counted_where_it_is_written() -> None:
    """Before the first look, past a quarter of the room it showed until the next, and close to the bound."""
    store = FakeFigures()
    figures = make(store, most_queued=80_000)
    assert figures.bound_of("builtin") == 80_000
    await figures.refresh("one")
    figures.count_accepted(check(), accepted())
    with figures.admitted(["builtin"] * 19_998):
        assert figures.bound_of("builtin") == 0
    with figures.admitted(["builtin"] * 19_999):
        assert figures.bound_of("builtin") == 80_000
    store.depths = [Depth(group="builtin", priority=Priority.LOW, queued=75_000, running=0)]
    await figures.refresh("one")
    assert figures.bound_of("builtin") == 80_000


async def test_messages_that_wait_for_the_broker_bound_acceptance_too() -> None:
    """The outbox does not grow for ever while the broker is away."""
    with pytest.raises(Exhausted) as caught, make(FakeFigures(), backlog=100).admitted(["builtin"]):
        pytest.fail("nothing may be written")
    assert caught.value.code == "QUEUE_FULL"


async def test_a_position_counts_the_own_queue_and_an_estimate_what_is_more_urgent() -> None:
    """Tasks of higher classes are no part of the position, but of the wait."""
    store = FakeFigures()
    store.depths = [
        Depth(group="builtin", priority=Priority.NORMAL, queued=3, running=0),
        Depth(group="builtin", priority=Priority.HIGH, queued=4, running=0),
        Depth(group="builtin", priority=Priority.LOW, queued=100, running=0),
        Depth(group="agents", priority=Priority.NORMAL, queued=50, running=0),
    ]
    figures = make(store)
    await figures.refresh("one")
    position, seconds = figures.count_accepted(check(), accepted())
    assert (position, seconds) == (4, (3 + 4) / 2.0 + 0.5)
    assert figures.count_accepted(check(), accepted())[0] == 5
    assert figures.count_accepted(check(), accepted(replayed=True))[0] == 5


def test_estimates_follow_from_throughput_or_from_run_time() -> None:
    """Long queues move at the measured rate; short ones as the slots allow; without figures nothing is said."""
    rate = Rate(group="g", ended_per_second=10.0, mean_run_seconds=2.0, ended=1, failed=0)
    assert estimate_seconds(100, 4, rate) == 12.0
    assert estimate_seconds(2, 4, rate) == 3.0
    assert estimate_seconds(0, 0, rate) == 2.0
    assert estimate_seconds(5, 4, None) == 0.0


async def test_slots_come_as_fast_as_they_were_seen_to() -> None:
    """Nobody knows where nothing has ended yet; workers that drain free none."""
    store = FakeFigures()
    figures = make(store)
    assert figures.slots_within("builtin", 0.1) == inf
    store.workers = [
        SimpleNamespace(draining=draining, groups=["builtin"], slots=20) for draining in (False, False, True)
    ]
    await figures.refresh("one")
    # Each of forty is taken for half a second.
    assert figures.slots_within("builtin", 0.1) == pytest.approx(8)
    assert figures.slots_within("agents", 0.1) == inf


@pytest.mark.parametrize(("many", "run_seconds", "held"), [(False, 0.5, 0.05), (True, 0.5, 0.0), (False, 0.0, 0.0)])
async def test_who_submits_one_by_one_is_held(many: bool, run_seconds: float, held: float) -> None:
    """Those who submit many at once are not who holding slows down; where nothing has ended nobody knows what helps."""
    store = FakeFigures()
    store.run_seconds = run_seconds
    store.workers = [SimpleNamespace(draining=False, groups=["builtin"], slots=20)]
    store.depths = [Depth(group="builtin", priority=Priority.NORMAL, queued=100, running=0, scheduled=0)]
    clock = FakeClock()
    figures = make(store, most_queued=1000, clock=clock)
    with ExitStack() as stack:
        if many:
            stack.enter_context(figures.admitted(["builtin"] * 50))
        for _ in range(5 if many else 50):
            figures.enter("builtin")
        for _ in range(3):
            clock.advance(0.5)
            await figures.refresh("one")
    assert figures.hold_seconds("builtin", Priority.NORMAL) == held
    # With more workers it is no backlog, at the look that sees them.
    store.workers[0].slots = 400
    clock.advance(0.5)
    await figures.refresh("one")
    assert figures.hold_seconds("builtin", Priority.NORMAL) == 0
    for _ in range(5 if many else 50):
        figures.leave("builtin")
    clock.advance(0.5)
    await figures.refresh("one")
    assert figures.hold_seconds("builtin", Priority.NORMAL) == 0


async def test_ends_are_added_up_by_group_and_session() -> None:
    """Failures are apart, cancellations are none, and what goes on is not counted."""
    store = FakeFigures()
    figures = make(store)
    began = live(started_at=NOW - timedelta(seconds=3), channel="chat")
    figures.count_changes(
        [
            rules.complete(began, b"1"),
            rules.lose(live(lost=2)),
            rules.cancel(live(state=State.QUEUED, session_id=None, started_at=None)),
            rules.lose(live()),
        ]
    )
    await figures.refresh("one")
    (told,) = store.tallies
    assert told[1].groups == [Tally(group="builtin", ended=3, failed=1, busy_seconds=4.0)]
    assert told[1].sessions == {"ses_1": (2, 4.0)}
    assert told[1].channels == [ChannelTally(channel="chat", ended=1, failed=0, response_seconds=2.0)]
    await figures.refresh("one")
    assert len(store.tallies) == 1
