"""What deciding needs of the world: the store that all instances share, the memory of this one, and time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from chassis.errors import Unavailable
from services.ratelimit.model.book import RuleBook
from services.ratelimit.model.decisions import Verdict
from services.ratelimit.model.limits import Ask, Limit


class Answer(NamedTuple):
    """Verdicts in the order of the asks, and the store's time when it decided, in µs since the epoch."""

    verdicts: Sequence[Verdict]
    now_us: int


class InDoubt(Unavailable):
    """The store did not answer in time, and may have counted.

    Args:
        late: ends with the answer when it comes after all, or with an error when there will never be one.
    """

    def __init__(self, late: asyncio.Future[Answer]) -> None:
        super().__init__(private="the store did not answer in time")
        self.late = late


class Moved(Unavailable):
    """Nothing was counted, because what was asked for is kept elsewhere by now: ask again."""


class Store(Protocol):
    """The counters that all instances share."""

    @property
    def ready(self) -> bool:
        """Whether decisions are taken there now."""

    def decide(self, asks: Sequence[Ask]) -> Awaitable[Answer]:
        """Decides and counts. Raises InDoubt when it is too slow, and Unavailable when it was not asked at all."""

    def shares(self, asks: Sequence[Ask]) -> "Sequence[tuple[Store, Sequence[int]]] | None":
        """Who must be asked, each for itself, about which asks (their indexes); None: it can be asked about all."""


class Debt(NamedTuple):
    """What one counter admitted without the store.

    Args:
        state: as the store keeps it; to be added to what is there. An amount below 0 gives back.
    """

    key: str
    limit: Limit
    state: tuple[int, ...]


class Ledger(Protocol):
    """What the store must be told when it is back."""

    @property
    def owes(self) -> bool:
        """Whether there is anything."""

    @property
    def shared(self) -> bool:
        """Whether other instances have debts as well."""

    def take_debts(self, most: int) -> list[Debt]:
        """Takes out up to that many, forgetting them; at most one for each key, and in the order to be told."""

    def put_back(self, debts: Sequence[Debt]) -> None:
        """They could not be told after all."""

    def owe(self, asks: Sequence[Ask]) -> None:
        """These were admitted and the store does not know."""

    def owe_everything(self, lost: Callable[[str], bool] = ...) -> None:
        """The store has lost its counters, all or those that `lost` says: what is remembered of them here is owed."""


class Shadow(Ledger, Protocol):
    """One instance's own count, kept warm while the store decides."""

    def record(self, asks: Sequence[Ask], answer: Answer) -> None:
        """Counts what the store has admitted, at the instant at which it did, and takes over its time."""

    def decide(self, asks: Sequence[Ask]) -> list[Verdict]:
        """Decides by this instance's share of each limit, or as the limit says for this case, and counts."""

    def open_ledger(self) -> Ledger:
        """An account of its own for one of several stores."""

    def split(self, ledger_of: Callable[[str], Ledger]) -> None:
        """From now on what is owed goes to the account of the store that keeps the counter."""

    @property
    def owes_errands(self) -> bool:
        """Whether the store has yet to hear of what was given back or released."""

    def take_errands(self, most: int) -> list[Ask]:
        """Takes out up to that many of those, forgetting them, in their order."""


class Rules(Protocol):
    """The rules in force; another book after every reload."""

    @property
    def book(self) -> RuleBook: ...


class Notice(NamedTuple):
    """What all instances were told last of the rules.

    Args:
        revision: grows from notice to notice; 0 before the first.
        source: the text that was put in force; empty: the file has changed since, and is in force again.
        file: fingerprint of the file's text at that time, as its instance knew it; 0 for the built-in file.
    """

    revision: int
    source: str
    file: int


class Board(Protocol):
    """Where instances tell one another of their rules; it may forget. All raise Unavailable when it is away."""

    async def read(self) -> Notice:
        """The newest notice."""

    async def post(self, notice: Notice, *, after: int) -> bool:
        """Puts up a notice; False, and nothing is done, when `after` is not the newest revision."""

    async def wait(self, *, after: int, timeout_seconds: float) -> None:
        """Returns when there is a later notice, or when the time is over."""
