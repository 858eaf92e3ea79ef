"""What a publisher makes of the broker's answers, and how messages are written into properties."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiormq.exceptions import ChannelInvalidStateError, DeliveryError
from pamqp import frame as pamqp_frame
from pamqp.commands import Basic

from chassis.errors import Invalid, Unavailable
from chassis.messaging.burst import encode
from chassis.messaging.connection import Broker
from chassis.messaging.message import EVENTS, WORK, Message
from chassis.messaging.publisher import Publisher
from chassis.messaging.wire import from_properties, parked, to_properties


def message(exchange: str = WORK, key: str = "ack", **fields: Any) -> Message:
    given = {"type": "mesh.sample.v1.X", "body": b"b", "id": "m-1", "time": datetime(2026, 1, 1, tzinfo=UTC)}
    return Message(**{"exchange": exchange, "routing_key": key, "source": "sample", **given, **fields})


def decode(payload: bytes) -> list[Any]:
    """The frames, as pamqp reads them."""
    frames = []
    while payload:
        size, number, frame = pamqp_frame.unmarshal(payload)
        assert number == Channel.number
        frames.append(frame)
        payload = payload[size:]
    return frames


class Channel:
    """Takes bursts apart and answers by routing key."""

    is_closed = False
    number = 7
    connection = SimpleNamespace(connection_tune=SimpleNamespace(frame_max=4096))

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.lock = asyncio.Lock()
        self.delivery_tag = 0
        self.confirmations: dict[int, asyncio.Future[Any]] = {}
        self.message_id_delivery_tag: dict[str, int] = {}
        self.write_queue = self
        self.futures: list[asyncio.Future[Any]] = []

    def create_future(self) -> asyncio.Future[Any]:
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    async def put(self, frame: Any) -> None:
        publishes = [each for each in decode(frame.payload) if isinstance(each, Basic.Publish)]
        for future, publish in zip(self.confirmations.values(), publishes, strict=True):
            assert publish.mandatory == (publish.exchange != EVENTS)
            if publish.routing_key == "nack":
                future.set_exception(DeliveryError(None, Basic.Nack()))
            elif publish.routing_key == "gone":
                future.set_exception(ChannelInvalidStateError())
            elif publish.routing_key != "silence":
                future.set_result(Basic.Ack() if publish.routing_key == "ack" else "the returned message")

    async def close(self) -> None:
        self.closed.set()


class FakeBroker(Broker):
    """Hands out fake channels."""

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        self.stopped = False
        self.ensured = 0

    @property
    def blocked(self) -> bool:
        return self.stopped

    async def channel(self, _use: Any) -> Any:
        self.channels.append(Channel())
        return self.channels[-1]

    async def ensure(self, *_specs: Any) -> None:
        self.ensured += 1


@pytest.mark.parametrize(
    ("exchange", "key", "outcome"),
    [
        (WORK, "ack", True),
        (WORK, "returned", False),
        (EVENTS, "ack", True),
        (WORK, "nack", False),
        (EVENTS, "nack", False),
        (WORK, "gone", False),
        (WORK, "u" * 256, False),
    ],
)
async def test_each_answer_has_its_outcome(exchange: str, key: str, outcome: bool) -> None:
    """Only a confirmation counts; events are not mandatory, so one that nobody listens to is confirmed as well."""
    assert await Publisher(FakeBroker()).publish_many([message(exchange, key)]) == [outcome]


async def test_silence_is_no_confirmation_and_costs_the_channel() -> None:
    """What is not confirmed in time is False; the next message goes over a new channel."""
    broker = FakeBroker()
    publisher = Publisher(broker, confirm_timeout_seconds=0)
    assert await publisher.publish_many([message(key="silence")]) == [False]
    await broker.channels[0].closed.wait()
    publisher = Publisher(broker)
    assert await publisher.publish_many([message()]) == [True]
    assert len(broker.channels) == 2


async def test_a_channel_that_closes_ends_the_wait() -> None:
    """What was confirmed before counts; the rest may have arrived or not."""
    broker = FakeBroker()
    messages = [message(id="m-1"), message(key="silence", id="m-2")]
    publishing = asyncio.ensure_future(Publisher(broker).publish_many(messages))
    async with asyncio.timeout(30):
        while not (broker.channels and broker.channels[0].futures):
            await asyncio.sleep(0)
    broker.channels[0].futures[0].set_exception(ChannelInvalidStateError())
    assert await publishing == [True, False]
    assert broker.channels[0].message_id_delivery_tag == {}


async def test_refusals_restore_the_topology() -> None:
    """Somebody may have deleted the queue, and nobody else would bring it back."""
    broker = FakeBroker()
    await Publisher(broker).publish_many([message(key="returned"), message()])
    assert broker.ensured == 1


async def test_a_blocked_broker_is_not_tried() -> None:
    """Nothing is sent that would wait in a socket."""
    broker = FakeBroker()
    broker.stopped = True
    with pytest.raises(Unavailable) as caught:
        await Publisher(broker).publish_many([message()])
    assert caught.value.code == "BROKER_ERROR"
    assert broker.channels == []


def test_a_message_survives_its_properties() -> None:
    """All fields, with and without the optional ones, to the microsecond."""
    full = message(
        subject="s", sequence=2**40, traceparent="00-x", headers={"a": "b"}, time=datetime(2026, 1, 1, 0, 0, 0, 7, UTC)
    )
    for each in (full, message()):
        assert from_properties(WORK, "ack", to_properties(each), b"b") == each


@pytest.mark.parametrize("body", [b"", b"b", b"x" * 10_000], ids=len)
def test_a_burst_says_what_was_meant(body: bytes) -> None:
    """Read by pamqp, the frames are the publish, its properties and its body in parts that fit."""
    full = message(
        body=body,
        subject="s",
        sequence=2**40,
        traceparent="00-x",
        headers={"a": "b"},
        time=datetime(2026, 5, 1, tzinfo=UTC),
    )
    publish, header, *parts = decode(encode(full, Channel.number, 4096))
    assert (publish.exchange, publish.routing_key, header.body_size) == (WORK, "ack", len(body))
    assert all(len(part.value) <= 4096 - 8 for part in parts)
    assert from_properties(WORK, "ack", header.properties, b"".join(part.value for part in parts)) == full
    assert dict(header.properties) == dict(to_properties(full))


@pytest.mark.parametrize(
    "change",
    [
        {"message_id": None},
        {"message_type": None},
        {"timestamp": None, "headers": {}},
        {"headers": {"cloudEvents:time": "noon"}},
        {"headers": {"cloudEvents:sequence": "first"}},
    ],
    ids=str,
)
def test_what_is_no_message_of_the_mesh_is_refused(change: dict[str, Any]) -> None:
    """Its receiver parks it."""
    properties = to_properties(message())
    for name, value in change.items():
        setattr(properties, name, value)
    with pytest.raises(Invalid):
        from_properties(WORK, "ack", properties, b"b")


def test_a_parked_message_tells_why_and_from_where() -> None:
    """Everything it was sent with stays, so that an operator can send it again."""
    why = parked(to_properties(message(subject="s")), reason="no kind", queue="q", routing_key="k")
    assert why.message_id == "m-1"
    assert why.delivery_mode == 2
    assert {"mesh-parked-reason": "no kind", "mesh-parked-queue": "q", "mesh-parked-routing-key": "k"}.items() <= (
        why.headers or {}
    ).items()
    assert (why.headers or {})["cloudEvents:subject"] == "s"
