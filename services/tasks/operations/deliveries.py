"""The couriers: what is due is taken, signed, posted and settled, so many at a time and so many to one webhook.

Several processes share the work; who takes a delivery has it until its lease is over.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from chassis import telemetry
from chassis.clock import Clock
from chassis.errors import Unavailable
from chassis.logging import get_logger
from services.tasks.model import signing, tries
from services.tasks.model.tries import Bounds
from services.tasks.model.webhooks import Answer, DeliveryState, Parcel, Settlement, Try
from services.tasks.operations.upkeep import repeat
from services.tasks.ports import DeliveryStore, Post

log = get_logger(__name__)

LOOK_EVERY_SECONDS = 0.5
PRUNE_EVERY_SECONDS = 10.0
# Beyond the time a try may take: to be taken, and to be settled.
LEASE_MARGIN_SECONDS = 15.0
# A drain waits that long for tries under way; the rest is left to others.
_DRAIN_SECONDS = 5.0
_SETTLE_AGAIN_SECONDS = 0.5
_AT_ONCE = 1000
_MOST_WRITING = 4
# Long results take milliseconds to be written in canonical form, and this process serves others meanwhile.
_MOST_TAKEN = 16


class Couriers:
    """The tries of one process. `run` and `prune` have to run."""

    def __init__(self, store: DeliveryStore, post: Post, *, clock: Clock, bounds: Bounds) -> None:
        self._store = store
        self._post = post
        self._clock = clock
        self._bounds = bounds
        self._under_way: dict[asyncio.Task[None], Parcel] = {}
        self._stopping = False
        self.awake = asyncio.Event()
        # The database serves callers first: however many tries end together, few are written down at a time.
        self._writing = asyncio.Semaphore(_MOST_WRITING)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            start = partial(self._start, group)
            await repeat("webhooks", LOOK_EVERY_SECONDS, partial(self._take, start), self.awake)

    async def _take(self, start: Callable[[Parcel], None]) -> bool:
        places = min(self._bounds.most_under_way - len(self._under_way), _MOST_TAKEN)
        if self._stopping or places <= 0:
            return False
        seen, parcels = await self._store.take(
            places,
            self._bounds.share,
            Counter(parcel.webhook_id for parcel in self._under_way.values()),
            lease_seconds=self._bounds.timeout_seconds + LEASE_MARGIN_SECONDS,
            render=signing.payload_of_task,
        )
        if self._stopping:
            await self._store.give_back(parcels)
            return False
        for parcel in parcels:
            start(parcel)
        return seen >= places

    def _start(self, group: asyncio.TaskGroup, parcel: Parcel) -> None:
        task = group.create_task(self._deliver(parcel))
        self._under_way[task] = parcel
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        # There is a place now.
        self.awake.set()

    async def _deliver(self, parcel: Parcel) -> None:
        began, at = self._clock.monotonic(), self._clock.now()
        attributes = {"webhook.id": parcel.webhook_id, "webhook.event": parcel.event_id}
        with telemetry.span(f"deliver {parcel.type}", telemetry.CLIENT, parcel.traceparent, attributes) as recording:
            body = signing.body_of(parcel.payload, parcel.secrets[0])
            headers = signing.headers_of(parcel.event_id, at, body, parcel.secrets)
            answer = await self._send(parcel, headers, body)
            recording.set("http.response.status_code", answer.status)
            if answer.error:
                recording.fail(answer.error)
        duration_ms = int((self._clock.monotonic() - began) * 1000)
        one = Try(at=at, status=answer.status, duration_ms=duration_ms, error=answer.error)
        chance = random.random()  # noqa: S311 - not a secret
        settlement = tries.settle(parcel, one, answer, self._bounds.policy, chance)
        await self._settle(parcel, settlement)
        telemetry.WEBHOOK_TRIES.labels("well" if tries.is_success(answer.status) else "failed").inc()
        if settlement.state is not DeliveryState.WAITING:
            telemetry.WEBHOOK_DELIVERIES.labels(settlement.state.name.lower()).inc()

    async def _send(self, parcel: Parcel, headers: Mapping[str, str], body: bytes) -> Answer:
        """A failed try for whatever goes wrong: no endpoint ends the tries of all others."""
        try:
            return await self._post.send(parcel.url, headers, body)
        except Exception:
            # A stranger's answer may find a fault in any library on the way.
            log.exception("A try failed by a fault of ours", webhook=parcel.webhook_id)
            return Answer(status=0, error="Its answer was not understood")

    async def _settle(self, parcel: Parcel, settlement: Settlement) -> None:
        """Writes it down, also when the database is away for a while: nobody else tries before the lease is over."""
        until = self._clock.monotonic() + LEASE_MARGIN_SECONDS
        while True:
            try:
                async with self._writing:
                    disabled = await self._store.settle_delivery(parcel, settlement, self._bounds.failing_seconds)
                if disabled:
                    log.warning("A webhook was disabled", webhook=parcel.webhook_id, gone=settlement.gone)
                    await give_up_all(self._store, parcel.webhook_id, "The webhook was disabled")
            except Unavailable as error:
                if self._clock.monotonic() >= until:
                    log.warning(
                        "A try was not written down and is repeated", delivery=parcel.delivery_id, error=str(error)
                    )
                    return
                await asyncio.sleep(_SETTLE_AGAIN_SECONDS)
            else:
                return

    async def drain(self) -> None:
        """Takes no more, and leaves to others what is not over soon."""
        self._stopping = True
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_DRAIN_SECONDS)
        left = dict(self._under_way)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
            await self._store.give_back(list(left.values()))

    async def prune(self) -> bool:
        """Forgets what is old. True when there may be more."""
        telemetry.WEBHOOK_BACKLOG.set(await self._store.count_waiting())
        before = self._clock.now() - timedelta(days=self._bounds.retained_days)
        touched = await self._store.prune_deliveries(before, self._bounds.most_waiting, _AT_ONCE)
        return touched >= _AT_ONCE


async def give_up_all(store: DeliveryStore, webhook_id: str, words: str) -> None:
    """Ends all that waits for a webhook."""
    while await store.give_up(webhook_id, words, _AT_ONCE) >= _AT_ONCE:
        pass
