"""Consumers that do not go silent: each queue has its own channel, prefetch and supervisor.

A supervisor subscribes again after everything that ends a subscription (broker restart, lost data, deleted queue,
cancel by the server) and after what ends it without a word: a queue with messages that delivers none.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq import Channel
from aiormq.abc import DeliveredMessage

from chassis import telemetry
from chassis.clock import Clock, SystemClock
from chassis.endless import end, endless, own_cancellation
from chassis.errors import Unavailable
from chassis.logging import get_logger
from chassis.messaging.connection import Broker, Use, close_channel
from chassis.messaging.delivery import Delivery, Handle, Handling, Unsettled
from chassis.messaging.link import BROKER_ERRORS, CALL_TIMEOUT_SECONDS
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import QueueSpec
from chassis.retry import backoff_seconds

__all__ = ("Consumer", "Delivery")

log = get_logger(__name__)

_SILENCE_SECONDS = 2.0
_LOOK_EVERY_SECONDS = 0.5
_MOST_BACKOFF_SECONDS = 1.0
_FINISH_SECONDS = 5.0


class Consumer:
    """One handler over one or more queues.

    Args:
        queue: one spec or several; each has its own channel, so their shares follow their prefetch counts.
        prefetch: how many deliveries of a queue may be unsettled at once; one number for all or one for each queue.
        handle: called for each delivery, in the order of the queue, without waiting for the one before. It settles the
            delivery (``ack``, ``reject``, ``park``), then or later; a plain function only takes it in. When it raises
            instead: Invalid parks the message, anything else returns it to its queue after a pause, and parks it after
            ten such failures unless they were Unavailable.
        on_subscribed: told the queue's name whenever a subscription begins anew: its queue stands, and has delivered
            nothing yet. An exclusive queue may have missed messages before.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        queue: QueueSpec | Sequence[QueueSpec],
        prefetch: int | Sequence[int],
        handle: Handle,
        clock: Clock | None = None,
        on_subscribed: Callable[[str], None] | None = None,
    ) -> None:
        specs = (queue,) if isinstance(queue, QueueSpec) else tuple(queue)
        counts = (prefetch,) * len(specs) if isinstance(prefetch, int) else tuple(prefetch)
        handling = Handling(Publisher(broker), handle)
        time = clock or SystemClock()
        self._handling = handling
        self._subscriptions = [
            _Subscription(broker, spec, prefetch=count, handling=handling, clock=time, on_subscribed=on_subscribed)
            for spec, count in zip(specs, counts, strict=True)
        ]

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Consumer"]:
        """Consumes for as long as it is open; returns at once, also while the broker is away.

        At the end no delivery starts any more, those that run get five seconds, and what is unsettled then returns to
        its queue.
        """
        tasks = [
            asyncio.create_task(endless(f"consume:{each.name}", each.supervise), name=f"consume:{each.name}")
            for each in self._subscriptions
        ]
        try:
            yield self
        finally:
            try:
                await self.pause()
                await self._handling.finish(_FINISH_SECONDS)
            finally:
                await end(tasks)

    async def pause(self) -> None:
        """Takes no further deliveries; those taken can still be settled. For draining and for full workers."""
        await asyncio.gather(*(each.pause() for each in self._subscriptions))

    async def resume(self) -> None:
        """Takes deliveries again."""
        await asyncio.gather(*(each.resume() for each in self._subscriptions))

    @property
    def unsettled(self) -> int:
        """Deliveries taken and not yet settled."""
        return sum(each.unsettled for each in self._subscriptions)


class _Subscription:
    """One queue, subscribed for ever."""

    def __init__(
        self,
        broker: Broker,
        spec: QueueSpec,
        *,
        prefetch: int,
        handling: Handling,
        clock: Clock,
        on_subscribed: Callable[[str], None] | None,
    ) -> None:
        self.name = spec.name
        self._broker = broker
        self._spec = spec
        self._prefetch = prefetch
        self._handling = handling
        self._clock = clock
        self._on_subscribed = on_subscribed
        self._channel: Channel | None = None
        self._queue = spec.name
        self._tag = ""
        self._wanted = True
        self._unsettled: Unsettled | None = None
        self._last_heard = clock.monotonic()
        # Set by whatever ends this subscription: the channel's end, the server's cancel, the watchdog.
        self._ended = asyncio.Event()
        self._switch = asyncio.Lock()

    @property
    def unsettled(self) -> int:
        return len(self._unsettled or ())

    async def supervise(self) -> None:
        """Subscribes, waits for the end of the subscription, and starts over."""
        failures = 0
        try:
            while True:
                await self._broker.wait_connected(Use.CONSUME)
                try:
                    await self._subscribe()
                    failures = 0
                    await self._watch()
                except (*BROKER_ERRORS, TimeoutError, Unavailable) as error:
                    level = log.debug if failures else log.warning
                    level("A queue cannot be consumed now", queue=self.name, error=f"{type(error).__name__}: {error}")
                    failures += 1
                    await self._leave()
                    await asyncio.sleep(backoff_seconds(failures, first=0.05, most=_MOST_BACKOFF_SECONDS))
                else:
                    await self._leave()
        finally:
            await self._leave()

    async def pause(self) -> None:
        async with self._switch:
            self._wanted = False
            tag, self._tag = self._tag, ""
            if tag and self._channel is not None and not self._channel.is_closed:
                with suppress(*BROKER_ERRORS, TimeoutError), own_cancellation():
                    # A channel that is gone delivers nothing, and its supervisor sees `_wanted`.
                    await self._channel.basic_cancel(tag, timeout=CALL_TIMEOUT_SECONDS)

    async def resume(self) -> None:
        async with self._switch:
            self._wanted = True
            self._last_heard = self._clock.monotonic()
            if self._channel is not None and not self._channel.is_closed and not self._tag:
                try:
                    with own_cancellation():
                        await self._consume(self._channel)
                except (*BROKER_ERRORS, TimeoutError) as error:
                    log.debug("A queue cannot be resumed on its channel", queue=self.name, error=str(error))
                    self._ended.set()

    async def _subscribe(self) -> None:
        channel = await self._broker.channel(Use.CONSUME)
        self._channel, self._unsettled = channel, None
        self._ended.clear()
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            try:
                self._queue = await self._broker.declare(channel, self._spec)
            except ChannelPreconditionFailed:
                channel = self._channel = await self._broker.channel(Use.CONSUME)
                self._queue = await self._broker.adopt(channel, self._spec)
            await channel.basic_qos(prefetch_count=self._prefetch)
        channel.on_consumer_cancel_callbacks.add(lambda _frame: self._ended.set())
        channel.closing.add_done_callback(lambda _closing: self._ended.set())
        # Before the first delivery: by then nobody could tell any more what was heard before the gap.
        if self._on_subscribed is not None:
            self._on_subscribed(self.name)
        async with self._switch:
            if self._wanted:
                await self._consume(channel)

    async def _consume(self, channel: Channel) -> None:
        unsettled = self._unsettled = self._unsettled or Unsettled(channel)

        async def take(received: DeliveredMessage) -> None:
            tag = received.delivery_tag
            if tag is None:
                return
            self._last_heard = self._clock.monotonic()
            unsettled.add(tag)
            self._handling.begin(self.name, received, unsettled)

        answer = await channel.basic_consume(self._queue, take, timeout=CALL_TIMEOUT_SECONDS)
        self._tag = answer.consumer_tag or ""
        self._last_heard = self._clock.monotonic()

    async def _watch(self) -> None:
        """Returns when the subscription has ended, or has gone silent over a queue with messages."""
        while not self._ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_SECONDS):
                    await self._ended.wait()
            if not self._ended.is_set() and self._is_silent() and await self._has_waiting():
                telemetry.CONSUMER_RESTARTS.labels(self.name).inc()
                log.warning("A consumer had gone silent and subscribes again", queue=self.name)
                return

    def _is_silent(self) -> bool:
        quiet = self._clock.monotonic() - self._last_heard >= _SILENCE_SECONDS
        # A consumer whose prefetch is used up is not silent but busy.
        return quiet and self._wanted and self.unsettled < self._prefetch

    async def _has_waiting(self) -> bool:
        waiting = await self._broker.ready_count(self._queue)
        if waiting == 0:
            # Nothing to deliver is no silence: the clock starts again.
            self._last_heard = self._clock.monotonic()
        # Something may have been delivered while the broker was asked. No such queue: it has to be declared again.
        return waiting is None or (waiting > 0 and self._is_silent())

    async def _leave(self) -> None:
        channel, self._channel, self._tag = self._channel, None, ""
        if channel is not None:
            await close_channel(channel)
