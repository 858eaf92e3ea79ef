"""A backlog that stays: who submits is held, longer as long as that is in vain, and not at all where it cannot help."""

from dataclasses import replace

from services.tasks.model.figures import Depth, Rate
from services.tasks.model.states import Priority
from services.tasks.operations.congestion import Congestion
from services.tasks.operations.waiting import NOTHING_SEEN, Waiting

SLOTS = 100
FEW = SLOTS // 4
MANY = 300
LOW = Depth(group="g", priority=Priority.LOW, queued=1000, running=0, scheduled=7)
RATE = Rate(group="g", ended_per_second=1.0, mean_run_seconds=0.1, ended=0, failed=0)


def looked(*backlogs: int, callers: int = MANY, ended_per_second: float = 0.0) -> list[float]:
    """How long who submits is held after each look."""
    congestion = Congestion()
    seconds = []
    for waiting in backlogs:
        congestion.look(waiting, SLOTS, callers, ended_per_second)
        seconds.append(congestion.seconds)
    return seconds


def submit(waiting: Waiting, callers: int) -> None:
    waiting.slots = SLOTS
    waiting.look([], NOTHING_SEEN, -1.0)
    for _ in range(callers):
        waiting.enter(-1.0)


def burst(waiting: Waiting, begin: float, end: float) -> None:
    """Forty more, from then to then."""
    for _ in range(40):
        waiting.enter(begin)
    for _ in range(40):
        waiting.leave(end)


def test_a_backlog_that_stays_holds_who_submits_until_it_is_gone() -> None:
    """Two looks tell; few that wait are no backlog."""
    assert looked(FEW, FEW, FEW) == [0, 0, 0]
    assert looked(FEW, FEW + 1, FEW + 1) == [0, 0, 0.05]
    assert looked(0, 2000, 2500, 2000, 1000, FEW + 1, FEW, 2000) == [0, 0, 0.05, 0.05, 0.05, 0.05, 0, 0]


def test_what_is_on_its_way_is_no_backlog() -> None:
    """Pointers take some milliseconds: the faster the work, the more of them are queued at any moment."""
    assert looked(200, 210, 220, 200, 250, ended_per_second=5000) == [0] * 5
    assert looked(251, 251, ended_per_second=5000) == [0, 0.05]


def test_one_that_goes_by_itself_holds_nobody() -> None:
    """However slowly."""
    assert looked(0, 5000, 4999, 4998, 4997) == [0] * 5


def test_where_it_is_in_vain_they_are_held_longer_and_then_not_for_a_while() -> None:
    """Others fill it, or nothing is worked off at all."""
    rising = looked(*range(1000, 40_000, 1000))
    assert rising[:9] == [0, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.4, 0.4]
    rests = [len(part) for part in "".join("." if held else "_" for held in rising).split(".") if part]
    assert rests[1:4] == [2, 3, 5]
    # Then for long from the start.
    assert rising[9:16] == [0, 0, 0.2, 0.2, 0.4, 0.4, 0]
    long = "".join("." if held else "_" for held in looked(*range(1000, 400_000, 1000)))
    assert max(len(part) for part in long.split(".")) == 9


def test_a_backlog_that_falls_is_not_in_vain() -> None:
    assert looked(5000, 5000, 4999, 4998, 4998, 4997, 4996, 4996) == [0, *[0.05] * 7]
    assert looked(5000, 5000, 4999, 4999, 4999)[-1] == 0.1


def test_after_a_backlog_is_gone_the_rest_is_short_again() -> None:
    assert looked(*range(1000, 30_000, 1000), 0, 1000, 1000)[-1] == 0.05


def test_who_are_few_are_not_held() -> None:
    """It is not they who fill it."""
    assert looked(2000, 2500, 3000, callers=FEW) == [0, 0, 0]
    congestion = Congestion()
    held = []
    for callers in (MANY, FEW + 1, FEW + 1, FEW):
        congestion.look(2000, SLOTS, callers, 0.0)
        held.append(congestion.seconds)
    assert held == [0, 0.05, 0.05, 0]
    # Workers of few slots.
    for callers in (17, 17, 16):
        congestion.look(2000, 8, callers, 0.0)
        held.append(congestion.seconds)
    assert held[4:] == [0.05, 0.05, 0]


def test_very_many_wait_as_long_as_they_are_so_many() -> None:
    """Without it they would not find their slots, and the backlog would be back at once."""
    congestion = Congestion()
    held = []
    for waiting, callers in [(2000, 600), (2500, 600), (1000, 600), (0, 600), (0, 501), (0, 500)]:
        congestion.look(waiting, SLOTS, callers, 0.0)
        held.append(congestion.seconds)
    assert held == [0, 0.05, 0.05, 0.05, 0.05, 0]


def test_who_waits_behind_nobody_is_not_held() -> None:
    """What waits in the classes below is no reason; once nothing waits, very many wait for their slots in all."""
    waiting = Waiting()
    submit(waiting, 600)
    for now in range(2):
        waiting.look([LOW], NOTHING_SEEN, now)
    assert [waiting.hold_seconds(priority) for priority in (Priority.LOW, Priority.NORMAL)] == [0.05, 0]
    for _ in range(FEW + 1):
        waiting.add(Priority.HIGH)
    assert [waiting.hold_seconds(priority) for priority in (Priority.NORMAL, Priority.CRITICAL)] == [0.05, 0]
    waiting.look([], waiting.added, 2.0)
    assert waiting.hold_seconds(Priority.CRITICAL) == 0.05


def test_what_waits_for_its_time_is_no_backlog() -> None:
    """Nor is what this process has added since the look."""
    waiting = Waiting()
    submit(waiting, MANY)
    for _ in range(200):
        waiting.add(Priority.LOW)
    later = replace(LOW, queued=0, running=50, scheduled=5000)
    for now in range(3):
        waiting.look([later], NOTHING_SEEN, now)
        assert waiting.hold_seconds(Priority.LOW) == 0


def test_how_fast_the_work_is_is_measured_between_two_looks() -> None:
    waiting = Waiting()
    submit(waiting, MANY)
    for look, (ended, held) in enumerate([(50_000, 0), (60_000, 0), (69_000, 0), (78_000, 0.05)]):
        waiting.rate = replace(RATE, ended=ended)
        # 10,000 in half a second: 1,000 in a moment.
        waiting.look([LOW], NOTHING_SEEN, look / 2)
        assert waiting.hold_seconds(Priority.LOW) == held, look


def test_who_submits_is_counted_over_time() -> None:
    """A moment with many between two looks is none with few."""
    waiting = Waiting()
    submit(waiting, 100)
    waiting.look([LOW], NOTHING_SEEN, 0.0)
    for _ in range(90):
        waiting.leave(0.25)
    # A quarter of a second with 100 and one with 10: 55.
    waiting.look([LOW], NOTHING_SEEN, 0.5)
    assert waiting.hold_seconds(Priority.LOW) == 0.05
    burst(waiting, 0.75, 0.95)
    assert waiting.entering == 10
    # 10 and for a fifth of a second 40 more: 26. Then the same for half as long: 18.
    waiting.look([LOW], NOTHING_SEEN, 1.0)
    assert waiting.hold_seconds(Priority.LOW) == 0.05
    burst(waiting, 1.35, 1.45)
    waiting.look([LOW], NOTHING_SEEN, 1.5)
    assert waiting.hold_seconds(Priority.LOW) == 0
