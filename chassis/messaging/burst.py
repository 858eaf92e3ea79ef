"""Many publishes as one write: the frames of a burst, encoded here, under the channel's own accounting of confirms.

aiormq encodes each message from generic parts, takes a lock and runs a coroutine for it; with four messages a task that
was most of what a task cost. Knows AMQP frames; what they say is its caller's business.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aiormq import Channel
from aiormq.abc import ChannelFrame
from pamqp import frame as pamqp_frame
from pamqp.commands import Basic

from chassis.logging import get_logger
from chassis.messaging.message import EVENTS, Message

if TYPE_CHECKING:
    import asyncio

log = get_logger(__name__)

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC = 60
# content type, headers, delivery mode, message id, timestamp, type, app id: bits 15, 13, 12, 7, 6, 5, 3.
_FLAGS = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 6 | 1 << 5 | 1 << 3
_FRAME = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQH")
# What a frame has around its payload.
_OVERHEAD = 8
_MOST_SHORT = 255


def encode(message: Message, channel: int, most_bytes: int) -> bytes:
    """The frames of a persistent publish, mandatory unless it is an event. Raises ValueError for what does not fit."""
    method = _method(message.exchange, message.routing_key, channel)
    properties = b"".join(
        (
            _CONTENT_TYPE,
            _table(message),
            b"\x02",
            _short(message.id),
            struct.pack(">Q", int(message.time.timestamp())),
            _short(message.type),
            _short(message.source),
        )
    )
    body = message.body
    content = _CONTENT.pack(_BASIC, 0, len(body), _FLAGS) + properties
    parts = [method, _FRAME.pack(_HEADER, channel, len(content)), content, _END]
    step = most_bytes - _OVERHEAD
    for start in range(0, len(body), step):
        part = body[start : start + step]
        parts += (_FRAME.pack(_BODY, channel, len(part)), part, _END)
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _method(exchange: str, routing_key: str, channel: int) -> bytes:
    publish = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=exchange != EVENTS)
    encoded: bytes = pamqp_frame.marshal(publish, channel)
    return encoded


def _short(text: str) -> bytes:
    data = text.encode()
    if len(data) > _MOST_SHORT:
        raise ValueError(f"{text[:40]}… is too long for a short string")
    return bytes((len(data),)) + data


def _long(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">cI", b"S", len(data)) + data


_CONTENT_TYPE = _short("application/protobuf")
_TIME, _SUBJECT, _SEQUENCE = _short("cloudEvents:time"), _short("cloudEvents:subject"), _short("cloudEvents:sequence")
_TRACEPARENT = _short("traceparent")


def _table(message: Message) -> bytes:
    parts = [part for name, value in message.headers.items() for part in (_short(name), _long(value))]
    parts += (_TIME, _long(message.time.isoformat()))
    if message.subject:
        parts += (_SUBJECT, _long(message.subject))
    if message.sequence:
        parts += (_SEQUENCE, struct.pack(">cq", b"l", message.sequence))
    if message.traceparent:
        parts += (_TRACEPARENT, _long(message.traceparent))
    table = b"".join(parts)
    return struct.pack(">I", len(table)) + table


class Burst:
    """Messages that are on their way together, and what the broker said of each.

    The channel is given a `_Confirmation` for each message, where it expects a future: a future each, with those who
    wait for it and the channel's own callbacks, cost more than the message. One future stands for all.

    Attributes:
        ended: done when everything is answered, failed when the channel has closed.
    """

    def __init__(self, channel: Channel, count: int) -> None:
        # The channel's own kind of future: it fails when the channel closes.
        self.ended: asyncio.Future[Any] = channel.create_future()
        self.outcomes = [False] * count
        self.left = count
        self.over = False

    def answer(self, index: int, *, taken: bool) -> None:
        """The broker's word about one message, or ours that it was never sent."""
        self.outcomes[index] = taken
        self.left -= 1
        if self.left == 0 and not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> int:
        """Nobody waits any more. Answers how many messages the broker has still to answer, on an open channel."""
        late = 0 if self.ended.done() else self.left
        self.over = True
        self.ended.cancel()
        return late


class _Confirmation:
    """As much of a future as the channel makes use of."""

    __slots__ = ("_answered", "_burst", "_index")

    def __init__(self, burst: Burst, index: int) -> None:
        self._burst = burst
        self._index = index
        self._answered = False

    def done(self) -> bool:
        return self._answered or self._burst.over

    def cancelled(self) -> bool:
        return self._burst.over

    def set_result(self, result: object) -> None:
        self._answer(taken=isinstance(result, Basic.Ack))

    def set_exception(self, error: BaseException) -> None:
        del error
        self._answer(taken=False)

    def _answer(self, *, taken: bool) -> None:
        if not self.done():
            self._answered = True
            self._burst.answer(self._index, taken=taken)


async def publish(channel: Channel, messages: Sequence[Message]) -> Burst:
    """Sends messages in one write.

    A message that fits into no frame is logged and counts as refused. Raises what aiormq raises when the channel is
    closed, with nothing sent.
    """
    async with channel.lock:
        burst = Burst(channel, len(messages))
        frames: list[bytes] = []
        for index, message in enumerate(messages):
            try:
                frames.append(encode(message, channel.number, channel.connection.connection_tune.frame_max))
            except (ValueError, TypeError):
                # Today or ever; the messages around it must not suffer for that.
                log.exception("A message cannot be published", routing_key=message.routing_key)
                burst.answer(index, taken=False)
                continue
            channel.delivery_tag += 1
            channel.confirmations[channel.delivery_tag] = _Confirmation(burst, index)  # type: ignore[assignment]  # see Burst
            # How a returned message finds its confirmation.
            channel.message_id_delivery_tag[message.id] = channel.delivery_tag
        await channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))
    return burst
