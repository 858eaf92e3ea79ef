"""A script call on its way, and who gets which part of the answer."""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import hiredis

from services.ratelimit.model.decisions import ALLOWED, Verdict
from services.ratelimit.model.limits import Ask
from services.ratelimit.ports import Answer, Debt, InDoubt, Ledger, Moved
from services.ratelimit.store.connection import Argument, Connection
from services.ratelimit.store.frame import Place, decide_arguments, number_before, read_answer, settle_arguments

# How a node of a cluster says that it has run nothing, because it is not, or not alone, the one to ask.
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "Script attempted to access a non local key")

_SCRIPT = ("store.lua", "decide.lua", "settle.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """`store.lua` with its other parts, and the two ways to run it."""

    source: bytes
    digest: str

    @classmethod
    def load(cls) -> "Script":
        folder = resources.files("services.ratelimit.store")
        source = b"\n".join(folder.joinpath(part).read_bytes() for part in _SCRIPT)
        return cls(source=source, digest=hashlib.sha1(source, usedforsecurity=False).hexdigest())

    def by_digest(self, arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVALSHA", self.digest, *arguments)

    def by_source(self, arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        """Redis remembers it from then on."""
        return ("EVAL", self.source, *arguments)


class Flight(ABC):
    """One script call on its way, sent once.

    Args:
        ended: called once, with what went wrong or None, when nothing more will come.
    """

    def __init__(self, script: Script, ended: "Callable[[Flight, Exception | None], None]") -> None:
        self._script = script
        self._ended = ended
        self._arguments: Sequence[Argument] = ()
        self._connection: Connection | None = None
        self._place: Callable[[], Place] = Place
        # What the server writes down with this call, and what it had written down before.
        self.number = 0
        self.before = 0

    @abstractmethod
    def arguments(self, place: Place) -> Sequence[Argument]:
        """The script's arguments."""

    @abstractmethod
    def succeed(self, reply: bytes) -> None:
        """It was answered, in time or not."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """There will be no answer, and Redis may have counted."""

    @abstractmethod
    def refuse(self) -> None:
        """It was not run, and another server may have to be asked."""

    @abstractmethod
    def expire(self) -> None:
        """The answer is late."""

    @abstractmethod
    def owe_again(self, ledger: Ledger) -> None:
        """It was answered, and then the server lost what it had counted."""

    def send(self, connection: Connection, place: Callable[[], Place]) -> None:
        """Sends it. `place` makes another number for each sending, so that numbers are written in their order."""
        self._connection, self._place = connection, place
        self._number()
        connection.send(self._replied, *self._script.by_digest(self._arguments))

    def _number(self) -> None:
        place = self._place()
        self.number = place.number
        self._arguments = self.arguments(place)

    def _replied(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT") and self._connection:
            # It was not run, so this is no repetition.
            self._number()
            self._connection.send(self._replied, *self._script.by_source(self._arguments))
            return
        failure: Exception | None = None
        if isinstance(reply, hiredis.ReplyError) and str(reply).removeprefix("ERR ").startswith(_ELSEWHERE):
            failure = Moved(private=str(reply))
            self.refuse()
        elif isinstance(reply, Exception):
            failure = reply
            self.fail(reply)
        else:
            self.before = number_before(reply)
            self.succeed(reply)
        self._ended(self, failure)


class Settlement(Flight):
    """Tells Redis what was admitted without it."""

    def __init__(
        self,
        debts: Sequence[Debt],
        ledger: Ledger,
        script: Script,
        ended: Callable[[Flight, Exception | None], None],
    ) -> None:
        super().__init__(script, ended)
        self._debts = debts
        self._ledger = ledger

    def arguments(self, place: Place) -> Sequence[Argument]:
        return settle_arguments(self._debts, place)

    def succeed(self, reply: bytes) -> None:
        del reply

    def fail(self, error: Exception) -> None:
        # If Redis has heard it after all, it counts twice: too little may pass, never too much.
        del error
        self._ledger.put_back(self._debts)

    def refuse(self) -> None:
        self._ledger.put_back(self._debts)

    def expire(self) -> None:
        pass

    def owe_again(self, ledger: Ledger) -> None:
        ledger.put_back(self._debts)


class Waiter(NamedTuple):
    """One call that waits for the verdicts of its asks."""

    asks: Sequence[Ask]
    future: "asyncio.Future[Answer]"


class Frame(Flight):
    """The asks of everybody who waited."""

    def __init__(
        self,
        waiters: Sequence[Waiter],
        script: Script,
        ended: Callable[[Flight, Exception | None], None],
    ) -> None:
        super().__init__(script, ended)
        self._waiters = waiters
        self._asks = waiters[0].asks if len(waiters) == 1 else [ask for waiter in waiters for ask in waiter.asks]
        self._in_doubt = False
        self._verdicts: Sequence[Verdict] = ()

    def arguments(self, place: Place) -> Sequence[Argument]:
        return decide_arguments(self._asks, place)

    def succeed(self, reply: bytes) -> None:
        answer = read_answer(self._asks, reply)
        self._verdicts = answer.verdicts
        first = 0
        for asks, future in self._waiters:
            end = first + len(asks)
            if not future.done():
                future.set_result(Answer(answer.verdicts[first:end], answer.now_us))
            first = end

    def expire(self) -> None:
        """Lets everybody go on without an answer; whoever still waits is told when there is one."""
        if self._in_doubt:
            return
        self._in_doubt = True
        loop = asyncio.get_running_loop()
        late = []
        for asks, future in self._waiters:
            answer = future
            if not future.done():
                answer = loop.create_future()
                future.set_exception(InDoubt(answer))
            late.append(Waiter(asks, answer))
        self._waiters = late

    def fail(self, error: Exception) -> None:
        self.expire()
        for _, late in self._waiters:
            if not late.done():
                late.set_exception(error)

    def refuse(self) -> None:
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(Moved())

    def owe_again(self, ledger: Ledger) -> None:
        ledger.owe([ask for ask, verdict in zip(self._asks, self._verdicts, strict=True) if verdict[0] == ALLOWED])
