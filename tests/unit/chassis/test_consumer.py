"""What becomes of deliveries: settled once, returned when the handler fails, parked when they cannot be understood."""

import asyncio
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelInvalidStateError
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from chassis.errors import Internal, Invalid, Unavailable
from chassis.messaging.delivery import Delivery, Handling, Unsettled, ack_all
from chassis.messaging.publisher import Publisher


class Channel:
    """Writes down what is settled."""

    def __init__(self) -> None:
        self.settled: list[str] = []
        self.gone = False

    async def basic_ack(self, tag: int, *, multiple: bool = False, **_options: Any) -> None:
        self._settle(f"ack {tag} and before" if multiple else f"ack {tag}")

    async def basic_nack(self, tag: int, *, requeue: bool, **_options: Any) -> None:
        self._settle(f"nack {tag} requeue={requeue}")

    def _settle(self, what: str) -> None:
        if self.gone:
            raise ChannelInvalidStateError
        self.settled.append(what)


class FakePublisher(Publisher):
    """Takes what is parked, or is away."""

    def __init__(self) -> None:
        self.parked: list[str] = []
        self.away = False

    async def publish_raw(self, _exchange: str, routing_key: str, _body: bytes, _properties: Any) -> bool:
        if self.away:
            raise Unavailable
        self.parked.append(routing_key)
        return True


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


def received(channel: Any, *, kind: str | None = "mesh.sample.v1.X", tag: int = 5) -> DeliveredMessage:
    headers = {"cloudEvents:time": "2026-01-01T00:00:00+00:00"}
    properties = Basic.Properties(message_id="m-1", message_type=kind, headers=headers)  # type: ignore[arg-type]  # as a stranger may send it
    header = ContentHeader(properties=properties)
    frame = Basic.Deliver("tag", tag, redelivered=True, exchange="mesh.work", routing_key="work.x.p0")
    return DeliveredMessage(delivery=frame, header=header, body=b"b", channel=channel)


async def run(handling: Handling, what: DeliveredMessage) -> int:
    unsettled = Unsettled(what.channel)
    unsettled.add(5)
    handling.begin("work.x.p0", what, unsettled)
    await handling.finish(5)
    return 1 - len(unsettled)


async def test_the_first_settlement_counts(channel: Channel, publisher: FakePublisher) -> None:
    """Later ones do nothing, whatever they are."""

    async def handle(delivery: Delivery) -> None:
        assert delivery.redelivered
        await delivery.ack()
        await delivery.reject()
        await delivery.park("too late")

    assert await run(Handling(publisher, handle), received(channel)) == 1
    assert channel.settled == ["ack 5"]
    assert publisher.parked == []


@pytest.mark.parametrize("error", [Unavailable(), Internal(), KeyError("bug")], ids=repr)
async def test_a_failure_returns_the_message_after_a_pause(
    channel: Channel, publisher: FakePublisher, pauses: list[float], error: Exception
) -> None:
    """It goes back to its queue and is not lost."""

    async def handle(_delivery: Delivery) -> None:
        raise error

    assert await run(Handling(publisher, handle), received(channel)) == 1
    assert channel.settled == ["nack 5 requeue=True"]
    assert pauses == [0.25]


@pytest.mark.parametrize(("error", "parked"), [(KeyError("bug"), 1), (Unavailable(), 0)], ids=["bug", "store away"])
async def test_the_tenth_failure_of_a_bug_parks(
    channel: Channel, publisher: FakePublisher, error: Exception, parked: int
) -> None:
    """A message that breaks its handler must not go round for ever; one that waits for a store may."""

    async def handle(_delivery: Delivery) -> None:
        raise error

    handling = Handling(publisher, handle)
    for _ in range(10):
        await run(handling, received(channel))
    assert len(publisher.parked) == parked
    assert channel.settled.count("ack 5") == parked


async def test_what_the_handler_calls_invalid_is_parked(channel: Channel, publisher: FakePublisher) -> None:
    """It will stay invalid, so it is taken out at once."""

    async def handle(_delivery: Delivery) -> None:
        raise Invalid("no such kind")

    await run(Handling(publisher, handle), received(channel))
    assert (publisher.parked, channel.settled) == (["mesh.parking"], ["ack 5"])


async def test_what_is_no_message_is_parked_unseen(channel: Channel, publisher: FakePublisher) -> None:
    """The handler never meets it."""

    async def handle(_delivery: Delivery) -> None:
        pytest.fail("handled")

    assert await run(Handling(publisher, handle), received(channel, kind=None)) == 1
    assert (publisher.parked, channel.settled) == (["mesh.parking"], ["ack 5"])


async def test_what_cannot_be_parked_returns_to_its_queue(channel: Channel, publisher: FakePublisher) -> None:
    """Acknowledged only when it stands in the parking queue."""
    publisher.away = True

    async def handle(delivery: Delivery) -> None:
        await delivery.park("no such kind")

    await run(Handling(publisher, handle), received(channel))
    assert channel.settled == ["nack 5 requeue=True"]


async def test_a_settlement_on_a_dead_channel_is_no_error(channel: Channel, publisher: FakePublisher) -> None:
    """The broker has put the message back by itself."""
    channel.gone = True

    async def handle(delivery: Delivery) -> None:
        await delivery.ack()

    assert await run(Handling(publisher, handle), received(channel)) == 1


async def test_a_handler_that_does_not_end_is_cancelled(channel: Channel, publisher: FakePublisher) -> None:
    """The close of a consumer is bounded; the message is unsettled and so returns to its queue."""

    async def handle(_delivery: Delivery) -> None:
        await asyncio.Event().wait()

    handling = Handling(publisher, handle)
    handling.begin("work.x.p0", what := received(channel), Unsettled(what.channel))
    await handling.finish(0)
    assert channel.settled == []
    assert handling._tasks == set()


def _delivered(channel: Channel, publisher: FakePublisher, tags: int) -> list[Delivery]:
    unsettled = Unsettled(channel)  # type: ignore[arg-type]  # as much of a channel as is used
    deliveries: list[Delivery] = []
    handling = Handling(publisher, deliveries.append)
    for tag in range(1, tags + 1):
        unsettled.add(tag)
        what = received(channel, tag=tag)
        handling.begin("work.x.p0", what, unsettled)
    return deliveries


async def test_those_that_came_one_after_the_other_share_an_acknowledgement(
    channel: Channel, publisher: FakePublisher
) -> None:
    """One frame says it for all of them."""
    await ack_all(_delivered(channel, publisher, 4))
    assert channel.settled == ["ack 4 and before"]


async def test_no_acknowledgement_speaks_for_what_somebody_else_settles(
    channel: Channel, publisher: FakePublisher
) -> None:
    """What comes after it is acknowledged one by one, and it is still there to be returned."""
    first, second, third, fourth = _delivered(channel, publisher, 4)
    await ack_all([first, third, fourth])
    await second.reject()
    await ack_all([second, third])
    assert channel.settled == ["ack 1 and before", "ack 3", "ack 4", "nack 2 requeue=True"]


async def test_what_is_settled_already_is_not_acknowledged_again(channel: Channel, publisher: FakePublisher) -> None:
    """The broker would end the channel over a number that it does not know."""
    first, second = _delivered(channel, publisher, 2)
    await second.reject()
    await ack_all([first, second])
    assert channel.settled == ["nack 2 requeue=True", "ack 1 and before"]
