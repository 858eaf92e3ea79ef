"""Unary calls that arrive close together, answered together by the batch handler of their method.

There is no timer: a batch leaves after some turns of the event loop that brought no further call. In a loop with
nothing to do they pass within 50 µs; in a busy one each takes as long as its work, so the busier a process is, the more
calls share what one batch costs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

# Measured with the rate limiter: 24 turns make batches of four calls at saturation, 80 of eight, and 200 save no more.
_QUIET_TURNS = 80
# A batch of this size has nothing more to save, and bounds what a single one takes.
_MOST_CALLS = 64
# So that calls that keep trickling in do not hold up the first of them.
_LONGEST_SECONDS = 0.002

# Answers many requests at once, one answer or error each, in order. Raises nothing.
AnswerAll = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]


class _Call(NamedTuple):
    request: Any
    answer: "asyncio.Future[Any]"


class Gathering:
    """The calls of one method that wait for company."""

    def __init__(self, answer_all: AnswerAll) -> None:
        self._answer_all = answer_all
        self._waiting: list[_Call] = []
        self._seen = 0
        self._quiet_turns = 0
        self._until = 0.0
        self._batches: set[asyncio.Task[None]] = set()

    def join(self, request: Any) -> "asyncio.Future[Any]":
        """The answer to a request, or its error. A call that is given up before its batch leaves is not made."""
        loop = asyncio.get_running_loop()
        call = _Call(request, loop.create_future())
        if not self._waiting:
            self._seen = self._quiet_turns = 0
            self._until = monotonic() + _LONGEST_SECONDS
            loop.call_soon(self._turn, loop)
        self._waiting.append(call)
        return call.answer

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        count = len(self._waiting)
        self._quiet_turns = self._quiet_turns + 1 if count == self._seen else 0
        self._seen = count
        if self._quiet_turns < _QUIET_TURNS and count < _MOST_CALLS and monotonic() < self._until:
            loop.call_soon(self._turn, loop)
            return
        calls, self._waiting = [call for call in self._waiting if not call.answer.done()], []
        if calls:
            batch = loop.create_task(self._answer(calls))
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)

    async def _answer(self, calls: Sequence[_Call]) -> None:
        answers = await self._answer_all([call.request for call in calls])
        for (_, future), answer in zip(calls, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
