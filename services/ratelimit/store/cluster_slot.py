"""One slot that is on its way from one node to another: its counters are here, or there, or some here and some there.

A key is only ever made at its new node once the old one says that it has none of them, so no counter is there twice.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import hiredis

from chassis.errors import Unavailable
from services.ratelimit.model.limits import Ask
from services.ratelimit.ports import Answer, Debt, InDoubt, Ledger, Moved
from services.ratelimit.store.connection import Argument, Connection
from services.ratelimit.store.frame import HERE, Place, decide_arguments, read_answer, settle_arguments
from services.ratelimit.store.redis import RedisStore

_TRY_AGAIN_SECONDS = 0.001
_ARRIVING = Place(scattered=True)

Arguments = Callable[[Place], Sequence[Argument]]


class _Call(NamedTuple):
    connection: Connection
    reply: "asyncio.Future[Any]"
    sent_at: float

    @property
    def waited_seconds(self) -> float:
        """For how long Redis has owed the reply without a word; what it owed others before is none of it."""
        return min(self.connection.silent_seconds, time.monotonic() - self.sent_at)


class MovingSlot:
    """Decides about the counters of one slot, one call for each slot while it is on the move.

    Args:
        node: who keeps the slot still.
        ledger: of that node.
        node_at: the node at an address, None when it is not known.
        arrived: called and waited for when the node does not keep the slot any more.
        tell_debts: settles what the node is owed, each counter on its own, and waits for who does so already.
        deadline_seconds: for how long Redis may owe a reply, and for how long it may say that it has none yet.
    """

    def __init__(
        self,
        node: RedisStore,
        ledger: Ledger,
        node_at: Callable[[str], RedisStore | None],
        arrived: Callable[[], Awaitable[None]],
        tell_debts: Callable[[], Awaitable[None]],
        *,
        deadline_seconds: float,
    ) -> None:
        self._node = node
        self._node_at = node_at
        self._arrived = arrived
        self._tell_debts = tell_debts
        self._deadline_seconds = deadline_seconds
        self.ledger = ledger

    @property
    def ready(self) -> bool:
        return self._node.ready

    def shares(self, asks: Sequence[Ask]) -> None:
        """It can be asked about all that it keeps."""

    def tell_soon(self) -> None:
        """Debts wait until the next round of those that are told one by one."""

    async def decide(self, asks: Sequence[Ask]) -> Answer:
        """See the port. Raises Moved when the slot has arrived."""
        await self._tell_debts()
        if self.ledger.owes:
            raise Unavailable(private="a moving slot is owed what passed without it")
        reply = await self._run(lambda place: decide_arguments(asks, place))
        if reply.done() and not reply.exception():
            return read_answer(asks, reply.result())
        late: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def read(done: asyncio.Future[Any]) -> None:
            if error := done.exception():
                late.set_exception(error)
            else:
                late.set_result(read_answer(asks, done.result()))

        reply.add_done_callback(read)
        raise InDoubt(late)

    async def settle(self, debt: Debt) -> None:
        """Tells one debt. Raises Unavailable when it was not told, or when nobody knows."""
        reply = await self._run(lambda place: settle_arguments([debt], place))
        if not reply.done() or reply.exception():
            raise Unavailable(private="nobody knows whether a debt was told")

    async def _run(self, arguments: Arguments) -> "asyncio.Future[Any]":
        """The call, answered, or without an answer when Redis owes it for too long or the connection was lost.

        Raises Moved and Unavailable when it was run nowhere.
        """
        paused_seconds = 0.0
        while True:
            call = self._here(arguments)
            word, address = await self._refusal(call)
            if word == "ASK":
                call = self._there(address, arguments)
                word, _ = await self._refusal(call)
            if not word:
                return call.reply
            if word in {"MOVED", "ASK"}:
                await self._arrived()
                raise Moved
            if word != "TRYAGAIN":
                raise Unavailable(private=f"a moving slot: {word}")
            if paused_seconds >= self._deadline_seconds:
                raise Unavailable(private="a moving slot is neither here nor there")
            # However much longer this process sleeps: that is no time that Redis had.
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
            paused_seconds += _TRY_AGAIN_SECONDS

    def _here(self, arguments: Arguments) -> _Call:
        return self._send(_open(self._node.connection), arguments(HERE))

    def _there(self, address: str, arguments: Arguments) -> _Call:
        node = self._node_at(address)
        connection = _open(node.connection if node else None)
        connection.ask("ASKING").add_done_callback(_looked_at)
        return self._send(connection, arguments(_ARRIVING))

    def _send(self, connection: Connection, arguments: Sequence[Argument]) -> _Call:
        # By source: whether the script is known is one thing less to go wrong, and this does not last.
        reply = connection.ask(*self._node.script.by_source(arguments))
        return _Call(connection, reply, time.monotonic())

    async def _refusal(self, call: _Call) -> tuple[str, str]:
        """With which word, and to which address, a call was refused that was not run; two empty ones for any other."""
        while not call.reply.done() and (left_seconds := self._deadline_seconds - call.waited_seconds) > 0:
            await asyncio.wait({call.reply}, timeout=left_seconds)
        error = call.reply.exception() if call.reply.done() else None
        if not isinstance(error, hiredis.ReplyError):
            return "", ""
        words = str(error).split()
        return words[0], words[-1]


def _open(connection: Connection | None) -> Connection:
    if connection is None:
        raise Unavailable(private="a node that keeps a moving slot is away")
    return connection


def _looked_at(done: "asyncio.Future[Any]") -> None:
    """Whatever is wrong is told by the call that follows."""
    done.exception()
