"""Calls that one read brings and that are answered as one: how many at a time, and each with its own answer."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from grpc import StatusCode

from chassis.logging import get_logger
from chassis.rpc.http2.call import Call
from chassis.rpc.http2.wire import StatusError

log = get_logger(__name__)

# Answers calls of one method that came together: for each its answer or how it failed, in order. Raises nothing.
AnswerTogether = Callable[[Sequence[Call]], Awaitable[Sequence[bytes | StatusError]]]

# Calls beyond this are answered as the next ones: what is done for many at once must not hold up everybody else.
_MOST_CALLS = 64
_MOST_BYTES = 8 * 1024


class Together:
    """The calls of a connection that wait for the rest of the read.

    Args:
        tasks: where those go that answer.
    """

    def __init__(self, tasks: "set[asyncio.Task[None]]") -> None:
        self._tasks = tasks
        self._waiting: defaultdict[AnswerTogether, list[Call]] = defaultdict(list)
        self._waiting_bytes = 0

    def add(self, answer: AnswerTogether, call: Call) -> None:
        """Takes a call, and begins with all that wait once they are many."""
        calls = self._waiting[answer]
        calls.append(call)
        self._waiting_bytes += call.waiting_bytes
        if len(calls) >= _MOST_CALLS or self._waiting_bytes >= _MOST_BYTES:
            self.begin()

    def begin(self) -> None:
        """Begins to answer all that wait, but those that were given up meanwhile."""
        for answer, calls in self._waiting.items():
            wanted = [call for call in calls if not call.ended]
            if wanted:
                task = asyncio.get_running_loop().create_task(_answer(answer, wanted))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._waiting.clear()
        self._waiting_bytes = 0


async def _answer(answer: AnswerTogether, calls: Sequence[Call]) -> None:
    try:
        for call, told in zip(calls, await answer(calls), strict=True):
            if call.ended:
                continue
            if isinstance(told, StatusError):
                call.end(told)
            elif not call.answer(told):
                call.begin_to_answer(told)
    except Exception:
        # Nobody asks this task how it ended.
        log.exception("Calls that came together ended in an error")
    finally:
        # Whatever went wrong, nobody waits for ever.
        for call in calls:
            if call.task is None:
                call.end(StatusError(StatusCode.INTERNAL, "Unexpected error"))
