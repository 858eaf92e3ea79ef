"""What a server is taken to have forgotten."""

from dataclasses import dataclass
from typing import Any

from services.ratelimit.store.calls import Calls


@dataclass
class Answered:
    """A call that was answered."""

    number: int
    before: int

    def owe_again(self, ledger: "Told") -> None:
        ledger.again.append(self.number)


class Told:
    """A ledger that only listens."""

    def __init__(self) -> None:
        self.again: list[int] = []
        self.everything = 0

    def owe_everything(self, keeps: Any) -> None:
        del keeps
        self.everything += 1


def calls_with(ledger: Any, *numbers: int) -> Calls:
    calls = Calls(ledger, lambda _: True)
    for number in numbers:
        flight: Any = Answered(number, number - 1)
        calls.answered(flight)
    return calls


def test_a_server_that_knows_all_is_owed_nothing():
    """The last number is written down."""
    ledger = Told()
    assert calls_with(ledger, 1, 2, 3).compare(3, 3)
    assert (ledger.again, ledger.everything) == ([], 0)


def test_what_is_answered_while_the_server_is_asked_is_not_lost():
    """Its word on the third call was spoken before the fourth was made."""
    ledger = Told()
    calls = calls_with(ledger, 1, 2, 3)
    newest = calls.newest
    flight: Any = Answered(4, 3)
    calls.answered(flight)
    assert calls.compare(3, newest)
    assert (ledger.again, ledger.everything) == ([], 0)


def test_the_calls_it_does_not_know_are_owed_again():
    """Exactly those, when they are remembered."""
    ledger = Told()
    assert not calls_with(ledger, 1, 2, 3, 4).compare(2, 4)
    assert (ledger.again, ledger.everything) == ([3, 4], 0)


def test_a_server_that_knows_nothing_is_owed_everything():
    """Nobody can tell how much it has lost."""
    ledger = Told()
    assert not calls_with(ledger, 1, 2, 3).compare(0, 3)
    assert (ledger.again, ledger.everything) == ([], 1)
