"""Pointers on their way to attempts: taken in, claimed in batches, acknowledged right after the claim has committed.

It owns the order claim, start, acknowledge; a crash between two of them repeats a pointer, which the claim's guard
then drops. It does not know what an attempt is.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.clock import Clock
from chassis.errors import Invalid, MeshError, NotFound
from chassis.logging import get_logger
from chassis.messaging.consumer import Delivery
from chassis.messaging.delivery import ack_all
from chassis.retry import backoff_seconds
from worker.attempts import Key, key_of
from worker.intake import WEIGHTS, Intake

log = get_logger(__name__)

_MAX_CLAIM = 200
# A second claim is sent while one is on its way when so many wait: what one commit waits for is the other's work. Few
# pointers are not worth a call and a commit: from 8 on, a task costs a twentieth more at full load.
_AT_ONCE = 2
_WORTH_ANOTHER = 40
# What is critical or high does not wait for either of them, and some slots are not asked for while a claim is on its
# way: a hundred low ones in each take many times as long as one.
_URGENT_CLASSES = 2
_SPARE_SHARE = 8
_TIMEOUT_SECONDS = 5.0
_MAX_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What the claims ask of the process they work for.

    Attributes:
        session: the session to claim for; None while no work may be claimed.
        free: slots without work.
        asking: around each claim; the attempts that end meanwhile, which its answer may bring back.
        start: starts what was claimed for a session, but not those; ignores what it knows already.
        lost: a claim said that the session is lost.
        came: pointers came, and wait for their claims.
    """

    session: Callable[[], str | None]
    free: Callable[[], int]
    asking: Callable[[], AbstractContextManager[set[Key]]]
    start: Callable[[str, list[tasks_pb2.Claimed], set[Key]], None]
    lost: Callable[[], None]
    came: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Bundle:
    """A delivery, and how many of its pointers are not claimed yet."""

    delivery: Delivery
    left: int

    def is_last(self) -> bool:
        """One more is claimed: whether it was the last, and the delivery is done with."""
        self.left -= 1
        return self.left == 0


class Claims:
    """The pointers that wait in this process, and the claims that are on their way."""

    def __init__(self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", clock: Clock, owner: Owner) -> None:
        self._tasks = tasks
        self._clock = clock
        self._owner = owner
        self._intake: Intake[tuple[Bundle, tasks_pb2.Pointer]] = Intake()
        self._changed = asyncio.Event()
        # Pointers in claims that are on their way.
        self._asked = 0
        # How often all pointers were forgotten.
        self._forgotten = 0

    @property
    def in_flight(self) -> bool:
        """A claim is on its way."""
        return self._asked > 0

    @property
    def waiting(self) -> int:
        """Pointers that wait for their claims."""
        return len(self._intake)

    @property
    def wanted(self) -> int:
        """Pointers that wait for their claims or are in some that are on their way."""
        return self._asked + len(self._intake)

    @property
    def stuck_seconds(self) -> float:
        """For how long pointers have waited here while none could be claimed."""
        return self._intake.stuck_seconds(self._clock.monotonic())

    def wake(self) -> None:
        """A slot or a session is there: looks whether something waits for it."""
        self._changed.set()

    def forget(self) -> None:
        """Drops what waits: its queue has it back."""
        self._intake.clear()
        self._forgotten += 1

    def take_in(self, delivery: Delivery, priority_class: int) -> None:
        """Lets the pointers of a delivery wait for their claims. Raises Invalid for what has none, which parks it."""
        try:
            pointers = tasks_pb2.Pointers.FromString(delivery.message.body).pointers
        except DecodeError as error:
            raise Invalid(private=f"no pointers: {error}") from error
        if not pointers:
            raise Invalid(private="no pointers")
        bundle, now = Bundle(delivery, len(pointers)), self._clock.monotonic()
        for pointer in pointers:
            self._intake.put((bundle, pointer), priority_class, now)
        self._changed.set()
        self._owner.came()

    async def run(self) -> None:
        """Claims for ever: what comes in while claims are on their way is the next one."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._claim_on(self._most_of_all, len(WEIGHTS)))
            group.create_task(self._claim_on(self._most_urgent, _URGENT_CLASSES))

    async def _claim_on(self, most: Callable[[], int], classes: int) -> None:
        failures = 0
        while True:
            # A worker may hold more than it has slots, after it came back with fewer.
            if (session_id := self._owner.session()) is None or (worth := most()) < 1:
                self._changed.clear()
                await self._changed.wait()
            elif await self._claim(session_id, worth, classes):
                failures = 0
            else:
                await asyncio.sleep(backoff_seconds(failures, first=0.05, most=_MAX_PAUSE_SECONDS))
                failures += 1

    def _most_of_all(self) -> int:
        free = self._owner.free()
        if not self._asked:
            return min(len(self._intake), free, _MAX_CLAIM)
        another = min(len(self._intake), free - self._asked - free // _SPARE_SHARE, _MAX_CLAIM)
        return another if another >= _WORTH_ANOTHER else 0

    def _most_urgent(self) -> int:
        # While nothing is on its way they go with all the others.
        free = self._owner.free() - self._asked if self._asked else 0
        return min(self._intake.count(_URGENT_CLASSES), free, _MAX_CLAIM)

    async def _claim(self, session_id: str, most: int, classes: int) -> bool:
        now = self._clock.monotonic()
        since, forgotten = now - self.stuck_seconds, self._forgotten
        taken = self._intake.take(most, now, classes)
        self._asked += len(taken)
        try:
            with self._owner.asking() as ended:
                claimed = await self._ask(session_id, [pointer for (_, pointer), _ in taken])
                self._owner.start(session_id, claimed, ended)
        except MeshError as error:
            log.warning("A claim was not answered", pointers=len(taken), error=str(error))
            if forgotten == self._forgotten:
                self._intake.put_back(taken, since)
            if isinstance(error, NotFound):
                self._owner.lost()
            return False
        finally:
            self._asked -= len(taken)
            # Another may be worth it now, or the only one that there is.
            self._changed.set()
        # On a channel that is gone this does nothing: the pointer comes again and meets the claim's guard.
        await ack_all([bundle.delivery for (bundle, _), _ in taken if bundle.is_last()])
        return True

    async def _ask(self, session_id: str, pointers: list[tasks_pb2.Pointer]) -> list[tasks_pb2.Claimed]:
        # The broker may deliver a pointer twice, and a statement must not meet one row twice.
        distinct = {key_of(pointer): pointer for pointer in pointers}
        request = tasks_pb2.ClaimRequest(session_id=session_id, pointers=distinct.values())
        try:
            response = await self._tasks.Claim(request, timeout=_TIMEOUT_SECONDS)
        except Invalid as error:
            if len(distinct) > 1:
                # One of them is nonsense and must not hold up the others.
                parts = [await self._ask(session_id, [pointer]) for pointer in distinct.values()]
                return [one for part in parts for one in part]
            # Acknowledged by the caller: if there is a row behind it, the tasks service points at it again.
            log.error("A pointer is refused", task_id=pointers[0].task_id, error=str(error))  # noqa: TRY400 - its text is all there is
            return []
        return list(response.claimed)
