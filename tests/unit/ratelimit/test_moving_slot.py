"""A slot that moves: what of the time until an answer counts as Redis being late."""

import asyncio
import struct
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import pytest

from chassis.errors import Unavailable
from services.ratelimit.model.decisions import ALLOWED
from services.ratelimit.model.limits import Algorithm, Ask, limit_of
from services.ratelimit.ports import InDoubt
from services.ratelimit.store.cluster_slot import MovingSlot
from services.ratelimit.store.flight import Script

DEADLINE_SECONDS = 0.001
ONE = limit_of(rule="one", algorithm=Algorithm.FIXED_WINDOW, per=("user",), limit=3, window_us=60_000_000)
ASKS = [Ask(("anna:one",), (ONE,), 1)]
# The server's time, the number before, and the verdict: allowed, nothing violated, 2 remain for 7 µs.
PASSES = struct.pack("<7q", 5, 0, ALLOWED, 0, 0, 2, 7)
TRY_AGAIN, ELSEWHERE = hiredis.ReplyError("TRYAGAIN later"), hiredis.ReplyError("ASK 7 127.0.0.1:2")


class Silent:
    """A connection that gives its replies one after the other, long after the deadline; while `silent_seconds` is set,
    not before it is told to.
    """

    def __init__(self, *replies: Any, silent_seconds: float) -> None:
        self._replies = list(replies)
        self.silent_seconds = silent_seconds
        self._unsaid: list[tuple[Any, Any]] = []

    def ask(self, *command: Any) -> "asyncio.Future[Any]":
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if command[0] == "ASKING":
            reply.set_result(b"OK")
            return reply
        found = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        give = reply.set_exception if isinstance(found, Exception) else reply.set_result
        if self.silent_seconds:
            self._unsaid.append((give, found))
        else:
            asyncio.get_running_loop().call_later(20 * DEADLINE_SECONDS, give, found)
        return reply

    def speak(self) -> None:
        """Gives all replies that were held back."""
        for give, found in self._unsaid:
            give(found)


def slot_over(here: Silent, there: Silent | None = None) -> MovingSlot:
    async def nothing() -> None:
        """The node is owed nothing, and the slot never arrives."""

    here_, there_ = (SimpleNamespace(connection=one, script=Script.load(), ready=True) for one in (here, there))
    ledger = cast("Any", SimpleNamespace(owes=False))
    return MovingSlot(
        cast("Any", here_), ledger, lambda _: cast("Any", there_), nothing, nothing, deadline_seconds=DEADLINE_SECONDS
    )


@pytest.mark.parametrize("replies", [[PASSES], [TRY_AGAIN, PASSES], [ELSEWHERE]])
async def test_time_of_this_process_is_not_that_of_redis(replies: list[Any]):
    """Redis has answered, here or there, and only this process has not read it yet: it waits for its own reading."""
    slot = slot_over(Silent(*replies, silent_seconds=0), Silent(PASSES, silent_seconds=0))
    assert (await slot.decide(ASKS)).verdicts[0].allowed


@pytest.mark.parametrize("asked_there", [False, True])
async def test_a_silent_redis_is_late(asked_there: bool):
    """Nobody waits for a node that says nothing, and the answer is taken in when it comes."""
    silent = Silent(PASSES, silent_seconds=1)
    slot = slot_over(Silent(ELSEWHERE, silent_seconds=0) if asked_there else silent, silent)
    with pytest.raises(InDoubt) as doubt:
        await slot.decide(ASKS)
    assert not doubt.value.late.done()
    silent.speak()
    async with asyncio.timeout(30):
        assert (await doubt.value.late).verdicts[0].allowed


async def test_a_slot_that_stays_in_between_is_not_waited_for():
    """Neither here nor there for as long as the deadline: nobody has counted it, and nobody is asked again."""
    slot = slot_over(Silent(TRY_AGAIN, silent_seconds=0))
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable, match="neither here nor there"):
            await slot.decide(ASKS)
