"""Pointers on their way to attempts: taken in, claimed in batches, acknowledged right after the claim has committed.

It owns the order claim, start, acknowledge; a crash between two of them repeats a pointer, which the claim's guard
then drops. It does not know what an attempt is.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.clock import Clock
from chassis.errors import Invalid, MeshError, NotFound
from chassis.logging import get_logger
from chassis.messaging.consumer import Delivery
from chassis.messaging.delivery import ack_all
from chassis.retry import backoff_seconds
from worker.attempts import key_of
from worker.intake import Intake

log = get_logger(__name__)

_MAX_CLAIM = 200
_TIMEOUT_SECONDS = 5.0
_MAX_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What the claims ask of the process they work for.

    Attributes:
        session: the session to claim for; None while no work may be claimed.
        free: slots without work.
        asking: a claim is about to be sent.
        start: starts what was claimed for a session; ignores what it knows already.
        lost: a claim said that the session is lost.
    """

    session: Callable[[], str | None]
    free: Callable[[], int]
    asking: Callable[[], None]
    start: Callable[[str, list[tasks_pb2.Claimed]], None]
    lost: Callable[[], None]


class Claims:
    """The pointers that wait in this process, and the one claim that is on its way."""

    def __init__(self, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub", clock: Clock, owner: Owner) -> None:
        self._tasks = tasks
        self._clock = clock
        self._owner = owner
        self._intake: Intake[tuple[Delivery, tasks_pb2.Pointer]] = Intake()
        self._changed = asyncio.Event()
        self.in_flight = False

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

    def take_in(self, delivery: Delivery, priority_class: int) -> None:
        """Lets a delivery wait for its claim. Raises Invalid for what is no pointer, which parks it."""
        try:
            pointer = tasks_pb2.Pointer.FromString(delivery.message.body)
        except DecodeError as error:
            raise Invalid(private=f"not a pointer: {error}") from error
        self._intake.put((delivery, pointer), priority_class, self._clock.monotonic())
        self._changed.set()

    async def run(self) -> None:
        """Claims for ever, one batch at a time: what comes in while one is on its way is the next one."""
        failures = 0
        while True:
            await self._changed.wait()
            self._changed.clear()
            while len(self._intake) and self._owner.free() > 0 and (session_id := self._owner.session()) is not None:
                if await self._claim(session_id):
                    failures = 0
                    continue
                await asyncio.sleep(backoff_seconds(failures, first=0.05, most=_MAX_PAUSE_SECONDS))
                failures += 1

    async def _claim(self, session_id: str) -> bool:
        now = self._clock.monotonic()
        since = now - self.stuck_seconds
        taken = self._intake.take(min(self._owner.free(), _MAX_CLAIM), now)
        self.in_flight = True
        self._owner.asking()
        try:
            claimed = await self._ask(session_id, [pointer for (_, pointer), _ in taken])
        except MeshError as error:
            log.warning("A claim was not answered", pointers=len(taken), error=str(error))
            self._intake.put_back(taken, since)
            if isinstance(error, NotFound):
                self._owner.lost()
            return False
        finally:
            self.in_flight = False
        self._owner.start(session_id, claimed)
        # On a channel that is gone this does nothing: the pointer comes again and meets the claim's guard.
        await ack_all([delivery for (delivery, _), _ in taken])
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
