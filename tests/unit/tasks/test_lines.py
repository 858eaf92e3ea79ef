"""Whose turn it is among those who wait in one process."""

from datetime import UTC, datetime

import pytest

from services.tasks.model.states import Priority
from services.tasks.model.work import WaitingPointer
from services.tasks.operations.lines import Line


def pointer(name: str) -> WaitingPointer:
    """Its first letter is its owner."""
    return WaitingPointer(
        lane="",
        group="builtin",
        priority=Priority.NORMAL,
        owner_id=name[0],
        seq=1,
        task_id=name,
        attempt=0,
        traceparent="",
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def line(*names: str) -> Line:
    made = Line()
    made.put(map(pointer, names))
    return made


def names(pointers: list[WaitingPointer]) -> list[str]:
    return [one.task_id for one in pointers]


@pytest.mark.parametrize(
    ("waiting", "most", "expected"),
    [
        (["a1", "a2", "a3"], 2, ["a1", "a2"]),
        (["a1", "a2", "a3", "b1", "c1", "c2"], 9, ["a1", "b1", "c1", "a2", "c2", "a3"]),
        (["a1", "b1"], 0, []),
        ([], 5, []),
    ],
)
def test_everybodys_first_comes_before_anybodys_second(waiting: list[str], most: int, expected: list[str]) -> None:
    """And of each owner they come in their order."""
    several = line(*waiting)
    assert names(several.take(most)) == expected
    assert len(several) == len(waiting) - len(expected)


def test_the_turn_goes_on_where_it_was() -> None:
    """Whoever was not reached is first next time; who comes anew comes after those who wait."""
    several = line("a1", "a2", "b1", "b2", "c1")
    assert names(several.take(2)) == ["a1", "b1"]
    several.put([pointer("d1")])
    assert names(several.take(9)) == ["c1", "a2", "b2", "d1"]


def test_the_first_of_each_owner_has_waited_the_longest() -> None:
    """So whether anybody has waited for long is seen without a look at all of them."""
    several = line("a1", "a2", "b1")
    assert names(list(several.firsts())) == ["a1", "b1"]
    several.take(3)
    assert list(several.firsts()) == []
