"""A backlog that stays: who submits is held, longer as long as that is in vain, and not at all where it cannot help."""

from services.tasks.model.figures import Depth
from services.tasks.model.states import Priority
from services.tasks.operations.congestion import Congestion
from services.tasks.operations.waiting import NOTHING_SEEN, Waiting

SLOTS = 100
FEW = SLOTS // 4
MANY = 300


def looked(*backlogs: int, entering: int = MANY) -> list[float]:
    """How long who submits is held after each look."""
    congestion = Congestion()
    seconds = []
    for waiting in backlogs:
        congestion.look(waiting, SLOTS, entering)
        seconds.append(congestion.seconds)
    return seconds


def test_a_backlog_that_stays_holds_who_submits_until_it_is_gone() -> None:
    """Two looks tell; few that wait are no backlog."""
    assert looked(FEW, FEW, FEW) == [0, 0, 0]
    assert looked(0, 2000, 2500, 2000, 1000, FEW + 1, FEW, 2000) == [0, 0, 0.05, 0.05, 0.05, 0.05, 0, 0]


def test_one_that_goes_by_itself_holds_nobody() -> None:
    assert looked(0, 5000, 4400, 3900, 3400) == [0] * 5


def test_where_it_is_in_vain_they_are_held_longer_and_then_not_for_a_while() -> None:
    """Others fill it, or nothing is worked off at all."""
    rising = looked(*range(1000, 40_000, 1000))
    assert rising[:9] == [0, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.4, 0.4]
    rests = [len(part) for part in "".join("." if held else "_" for held in rising).split(".") if part]
    assert rests[1:4] == [2, 3, 5]
    long = "".join("." if held else "_" for held in looked(*range(1000, 400_000, 1000)))
    assert max(len(part) for part in long.split(".")) == 9


def test_a_backlog_that_falls_slowly_is_not_in_vain() -> None:
    falls = [int(50_000 * 0.96**number) for number in range(20)]
    assert set(looked(50_000, 50_000, *falls)[1:]) == {0.05}
    stays = [int(50_000 * 0.98**number) for number in range(20)]
    assert max(looked(50_000, 50_000, *stays)) == 0.4


def test_after_a_backlog_is_gone_the_rest_is_short_again() -> None:
    congestion = Congestion()
    for waiting in [*range(1000, 30_000, 1000), 0, 1000, 1000]:
        congestion.look(waiting, SLOTS, MANY)
    assert congestion.seconds == 0.05


def test_who_are_few_are_not_held() -> None:
    """It is not they who fill it."""
    assert looked(2000, 2500, 3000, entering=FEW) == [0, 0, 0]
    congestion = Congestion()
    congestion.look(2000, SLOTS, MANY)
    congestion.look(2500, SLOTS, MANY)
    congestion.look(2500, SLOTS, FEW)
    assert congestion.seconds == 0


def test_very_many_wait_as_long_as_they_are_so_many() -> None:
    """Without it they would not find their slots, and the backlog would be back at once."""
    congestion = Congestion()
    held = []
    for waiting, entering in [(2000, 600), (2500, 600), (1000, 600), (0, 600), (0, 600), (0, 500)]:
        congestion.look(waiting, SLOTS, entering)
        held.append(congestion.seconds)
    assert held == [0, 0.05, 0.05, 0.05, 0.05, 0]


def test_who_waits_behind_nobody_is_not_held() -> None:
    """What waits in the classes below is no reason; once nothing waits, very many wait for their slots in all."""
    waiting = Waiting()
    waiting.slots, waiting.entering = SLOTS, 600
    low = Depth(group="g", priority=Priority.LOW, queued=1000, running=0, scheduled=7)
    for _ in range(2):
        waiting.look([low], NOTHING_SEEN)
    assert [waiting.hold_seconds(priority) for priority in (Priority.LOW, Priority.NORMAL)] == [0.05, 0]
    for _ in range(FEW + 1):
        waiting.add(Priority.HIGH)
    assert [waiting.hold_seconds(priority) for priority in (Priority.NORMAL, Priority.CRITICAL)] == [0.05, 0]
    waiting.look([], waiting.added)
    assert waiting.hold_seconds(Priority.CRITICAL) == 0.05


def test_what_waits_for_its_time_is_no_backlog() -> None:
    """Nor is what this process has added since the look."""
    waiting = Waiting()
    waiting.slots, waiting.entering = SLOTS, MANY
    for _ in range(200):
        waiting.add(Priority.LOW)
    later = Depth(group="g", priority=Priority.LOW, queued=0, running=50, scheduled=5000)
    for _ in range(3):
        waiting.look([later], NOTHING_SEEN)
        assert waiting.hold_seconds(Priority.LOW) == 0
