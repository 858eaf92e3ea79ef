"""Publishing that knows what arrived: persistent, mandatory, confirmed, hundreds in flight on one channel.

Knows no outbox: it says which messages the broker took over, and what to do about the others is the caller's business.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

from aiormq import Channel
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic

from chassis import telemetry
from chassis.errors import Unavailable
from chassis.logging import get_logger
from chassis.messaging import burst
from chassis.messaging.connection import Broker, Use, close_channel
from chassis.messaging.link import BROKER_ERRORS, away
from chassis.messaging.message import EVENTS, Message

log = get_logger(__name__)

_IN_FLIGHT = 1000
_CONFIRM_TIMEOUT_SECONDS = 10.0


class Publisher:
    """One confirmed channel, opened when it is first needed and again when it ended."""

    def __init__(self, broker: Broker, *, confirm_timeout_seconds: float = _CONFIRM_TIMEOUT_SECONDS) -> None:
        self._broker = broker
        self._timeout_seconds = confirm_timeout_seconds
        self._channel: Channel | None = None
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def publish_many(self, messages: Sequence[Message]) -> list[bool]:
        """Publishes in the order given and says of each whether the broker took it over.

        False: refused (a full queue), returned (no queue for it), or not confirmed in time, which leaves open whether
        it arrived. An event that nobody listens to counts as taken over: there is nobody to miss it.

        Raises Unavailable (code ``BROKER_ERROR``) when the broker is away or blocked, with nothing sent.
        """
        outcomes: list[bool] = []
        for start in range(0, len(messages), _IN_FLIGHT):
            outcomes += await self._burst(messages[start : start + _IN_FLIGHT])
        return outcomes

    async def _burst(self, messages: Sequence[Message]) -> list[bool]:
        channel = await self._ready_channel()
        try:
            sent = await burst.publish(channel, messages)
        except BROKER_ERRORS as error:
            raise away(error) from error
        try:
            await asyncio.wait((sent.ended,), timeout=self._timeout_seconds)
        finally:
            late = sent.close()
            for message in messages:
                channel.message_id_delivery_tag.pop(message.id, None)
        await self._settle(channel, [message.exchange for message in messages], sent.outcomes, late=late)
        return sent.outcomes

    async def publish_raw(self, exchange: str, routing_key: str, body: bytes, properties: Basic.Properties) -> bool:
        """Publishes one message as it is; otherwise as `publish_many`."""
        (outcome,) = await self._publish([(exchange, routing_key, body, properties)])
        return outcome

    async def _publish(self, envelopes: "Sequence[tuple[str, str, bytes, Basic.Properties]]") -> list[bool]:
        channel = await self._ready_channel()
        tasks = [asyncio.ensure_future(_publish_one(channel, *envelope)) for envelope in envelopes]
        try:
            _, late = await asyncio.wait(tasks, timeout=self._timeout_seconds)
        except asyncio.CancelledError:
            late = set(tasks)
            raise
        finally:
            for task in tasks:
                task.cancel()
        if late:
            await asyncio.wait(late)
        outcomes = [not task.cancelled() and task.result() for task in tasks]
        await self._settle(channel, [exchange for exchange, *_ in envelopes], outcomes, late=len(late))
        return outcomes

    async def _settle(self, channel: Channel, exchanges: list[str], outcomes: list[bool], *, late: int) -> None:
        """Counts, and mends what can be mended."""
        if late:
            log.warning("The broker did not confirm in time", messages=late)
            self._drop(channel)
        elif refused := outcomes.count(False):
            log.warning("The broker did not take over all messages", refused=refused, of=len(outcomes))
            # Somebody may have deleted a queue; when it is back the next attempt succeeds.
            await self._restore()
        for (exchange, outcome), count in Counter(zip(exchanges, outcomes, strict=True)).items():
            (telemetry.MESSAGES_PUBLISHED if outcome else telemetry.MESSAGES_REFUSED).labels(exchange).inc(count)

    async def _ready_channel(self) -> Channel:
        if self._broker.blocked:
            raise away(ConnectionError("the broker refuses to read what is published"))
        async with self._lock:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._broker.channel(Use.PUBLISH)
            return self._channel

    def _drop(self, channel: Channel) -> None:
        """A new channel starts clean, where this one may still send what it holds. Nobody waits for its end."""
        if self._channel is channel:
            self._channel = None
        closing = asyncio.get_running_loop().create_task(close_channel(channel))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _restore(self) -> None:
        try:
            await self._broker.ensure()
        except (*BROKER_ERRORS, TimeoutError, Unavailable) as error:
            log.debug("The topology cannot be restored now", error=str(error))


async def _publish_one(
    channel: Channel, exchange: str, routing_key: str, body: bytes, properties: Basic.Properties
) -> bool:
    try:
        confirmation = await channel.basic_publish(
            body,
            exchange=exchange,
            routing_key=routing_key,
            properties=properties,
            mandatory=True,
            # Waiting for the socket to drain would happen under the channel's lock, one message at a time.
            wait=False,
        )
    except (*BROKER_ERRORS, DeliveryError):
        # The channel ended or the broker refused: told by the outcome, hundreds at a time, and not by the log.
        return False
    except (ValueError, TypeError):
        # It does not fit into a frame, today or ever; the messages around it must not suffer for that.
        log.exception("A message cannot be published", routing_key=routing_key)
        return False
    return isinstance(confirmation, Basic.Ack) or exchange == EVENTS
