"""Pointers on the short way: from the commit of their task straight to the broker, while their queue has room and
nothing waits in it for a turn. Their rows are there until the broker has confirmed them: a crash repeats them.
"""

import asyncio
from collections.abc import Sequence

from chassis.errors import MeshError, Unavailable
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from services.tasks.model.task import Accepted, Submission
from services.tasks.model.work import WaitingPointer
from services.tasks.operations.feeder import Feeder
from services.tasks.ports import PointerStore, PublishBundles

log = get_logger(__name__)

# So many bursts may wait for their confirmation at once; the broker takes tens of milliseconds when it is busy.
BURSTS = 32
_MOST_AT_ONCE = 500
# Rows of what was confirmed go together.
_TIDY_EVERY_SECONDS = 0.05
_MOST_PAUSE_SECONDS = 1.0


class Direct:
    """Takes what was accepted a moment ago. `run` (as often as `BURSTS` says) and `tidy` have to run.

    What waits here is bounded by the room of the queues: nothing is taken that has none.
    """

    def __init__(self, store: PointerStore, feeder: Feeder, publish: PublishBundles) -> None:
        self._store = store
        self._feeder = feeder
        self._publish = publish
        self._waiting: asyncio.Queue[list[WaitingPointer]] = asyncio.Queue()
        self._taken: list[WaitingPointer] = []
        self._refused: list[WaitingPointer] = []
        self._untidy = asyncio.Event()

    def reserve(self, submissions: Sequence[Submission]) -> frozenset[str]:
        """The tasks among these whose pointers may take the short way, with room in their queues for each."""
        return frozenset(s.task_id for s in submissions if self._feeder.reserve(s))

    def hand(self, submissions: Sequence[Submission], answers: Sequence[Accepted | MeshError]) -> None:
        """Publishes the pointers of those that were accepted for the short way."""
        pointers = [
            _pointer(submission, answer)
            for submission, answer in zip(submissions, answers, strict=True)
            if isinstance(answer, Accepted) and answer.pointer_seq
        ]
        if pointers:
            self._waiting.put_nowait(pointers)

    async def run(self) -> None:
        """Publishes for ever, one burst at a time."""
        while True:
            burst = await self._waiting.get()
            while not self._waiting.empty() and len(burst) < _MOST_AT_ONCE:
                burst += self._waiting.get_nowait()
            await self._send(burst)

    async def _send(self, burst: list[WaitingPointer]) -> None:
        try:
            outcomes = await self._feeder.bundles.publish(burst, self._publish)
        except Unavailable as error:
            log.debug("Pointers wait for the broker", pointers=len(burst), error=str(error))
            outcomes = [False] * len(burst)
        for one, taken in zip(burst, outcomes, strict=True):
            (self._taken if taken else self._refused).append(one)
        self._untidy.set()

    async def tidy(self) -> None:
        """Deletes the rows of what was confirmed for ever, and leaves to the feeder what was not."""
        failures = 0
        while True:
            await self._untidy.wait()
            await asyncio.sleep(_TIDY_EVERY_SECONDS)
            self._untidy.clear()
            taken, self._taken = self._taken, []
            refused, self._refused = self._refused, []
            try:
                await self._store.settle_direct(taken, refused)
            except Unavailable as error:
                if failures == 0:
                    log.warning("Rows of published pointers wait", error=str(error))
                failures += 1
                self._taken, self._refused = taken + self._taken, refused + self._refused
                self._untidy.set()
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_PAUSE_SECONDS))
                continue
            failures = 0
            if refused:
                self._feeder.wake()


def _pointer(submission: Submission, accepted: Accepted) -> WaitingPointer:
    task = accepted.task
    return WaitingPointer(
        lane="",
        group=submission.group,
        priority=task.priority,
        owner_id=task.owner_id,
        seq=accepted.pointer_seq,
        task_id=task.task_id,
        attempt=task.attempt,
        traceparent=task.traceparent,
        at=task.created_at,
    )
