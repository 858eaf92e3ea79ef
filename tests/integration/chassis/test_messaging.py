"""Publishing and consuming over a real RabbitMQ that is killed, paused and robbed of its queues."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

import pytest

from chassis.config import Rabbit
from chassis.errors import Internal, Invalid, Unavailable
from chassis.messaging.connection import Broker, Use, open_broker
from chassis.messaging.consumer import Consumer, Delivery
from chassis.messaging.message import EVENTS, WORK, Message
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import PARKING, QueueSpec, events_queue, work_queue, work_queues
from deploy.local.stores.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbit

_QUEUE = work_queue("sample", 0)
_numbers = itertools.count(1)


def message(exchange: str = WORK, routing_key: str = _QUEUE.name) -> Message:
    return Message(
        exchange=exchange,
        routing_key=routing_key,
        type="mesh.sample.v1.Happened",
        body=b"body",
        id=f"m-{next(_numbers)}",
        time=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        source="sample",
        subject="thing-1",
        sequence=7,
        traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
        headers={"kind": "agent.run"},
    )


class Ledger:
    """Counts what was handled, and acknowledges it."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.messages: list[Message] = []

    async def handle(self, delivery: Delivery) -> None:
        self.seen[delivery.message.id] += 1
        self.messages.append(delivery.message)
        await delivery.ack()

    async def wait_for(self, messages: Sequence[Message]) -> None:
        wanted = {message.id for message in messages}
        await until(lambda: wanted <= set(self.seen))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


async def publish_all(publisher: Publisher, messages: Sequence[Message]) -> None:
    """As the relay does: again and again until everything is confirmed."""
    waiting = list(messages)
    while waiting:
        try:
            outcomes = await publisher.publish_many(waiting)
        except Unavailable:
            outcomes = [False] * len(waiting)
        waiting = [message for message, taken in zip(waiting, outcomes, strict=True) if not taken]
        if waiting:
            await asyncio.sleep(0.1)


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with open_broker(Rabbit(url=amqp_url), "test") as opened:
        opened.expect(_QUEUE)
        async with asyncio.timeout(20):
            await opened.wait_connected(Use.PUBLISH)
            await opened.wait_connected(Use.CONSUME)
        await opened.ensure()
        yield opened


async def delete_queue(broker: Broker, name: str) -> None:
    channel = await broker.channel(Use.CONSUME)
    await channel.queue_delete(name)
    await channel.close()


async def test_a_message_arrives_as_it_was_sent(broker: Broker) -> None:
    """Every field survives the way through properties and headers."""
    ledger, sent = Ledger(), message()
    async with Consumer(broker, queue=_QUEUE, prefetch=10, handle=ledger.handle).open():
        assert await Publisher(broker).publish_many([sent]) == [True]
        await ledger.wait_for([sent])
    assert ledger.messages == [sent]


async def test_the_outcome_of_each_message_is_told(broker: Broker) -> None:
    """No queue: not taken over. An event without listeners: taken over. Neither disturbs the rest."""
    publisher = Publisher(broker)
    batch = [message(), message(routing_key="work.nobody.p0"), message(EVENTS, "sample.thing.made"), message()]
    assert await publisher.publish_many(batch) == [True, False, True, True]


async def test_queues_are_declared_by_many_at_once(broker: Broker) -> None:
    """Each of them stands afterwards, also where some gave up waiting; the connection that all share stays."""
    specs = [QueueSpec(name=f"work.new{number}.p0", exchange=WORK, bindings=(f"w{number}",)) for number in range(20)]
    tokens = {use: link.token for use, link in broker._links.items()}
    waiting = [asyncio.create_task(broker.ensure(spec)) for spec in specs]
    for turns, impatient in enumerate(waiting[::3]):
        for _ in range(turns * 3):
            await asyncio.sleep(0)
        impatient.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(20):
        while None in [await broker.ready_count(spec.name) for spec in specs[1:]]:
            await asyncio.sleep(0.1)
    assert {use: link.token for use, link in broker._links.items()} == tokens


async def test_a_full_queue_refuses(broker: Broker) -> None:
    """A nack of the broker is the outcome of that message alone."""
    full = QueueSpec(
        name="work.full.p0",
        exchange=WORK,
        bindings=("work.full.p0",),
        arguments={"x-max-length": 2, "x-overflow": "reject-publish"},
    )
    broker.expect(full)
    await broker.ensure()
    publisher = Publisher(broker)
    outcomes = [(await publisher.publish_many([message(routing_key=full.name)]))[0] for _ in range(4)]
    assert outcomes == [True, True, False, False]
    assert await broker.ready_count(full.name) == 2


async def test_four_classes_share_one_handler(broker: Broker) -> None:
    """Each queue keeps its own prefetch; while nothing is settled no more than that is delivered."""
    queues, taken = work_queues("shared"), []

    async def hold(delivery: Delivery) -> None:
        taken.append(delivery)

    broker.expect(*queues)
    await broker.ensure()
    sent = [message(routing_key=spec.name) for spec in queues for _ in range(10)]
    await publish_all(Publisher(broker), sent)
    consumer = Consumer(broker, queue=queues, prefetch=(8, 4, 2, 1), handle=hold)
    async with consumer.open():
        await until(lambda: len(taken) == 15)
        assert Counter(delivery.queue for delivery in taken) == dict(
            zip([spec.name for spec in queues], (8, 4, 2, 1), strict=True)
        )
        assert consumer.unsettled == 15
        for delivery in tuple(taken):
            await delivery.ack()
        await until(lambda: len(taken) > 15)


async def test_a_deleted_queue_comes_back(broker: Broker) -> None:
    """The server cancels the consumer; it declares its queue again and goes on."""
    ledger = Ledger()
    async with Consumer(broker, queue=_QUEUE, prefetch=10, handle=ledger.handle).open():
        first, second = message(), message()
        await publish_all(Publisher(broker), [first])
        await ledger.wait_for([first])
        await delete_queue(broker, _QUEUE.name)
        await publish_all(Publisher(broker), [second])
        await ledger.wait_for([second])


async def test_a_subscription_is_told_before_what_it_brings(broker: Broker):
    """Whoever looks up what was missed must know what was heard last before the gap."""
    heard: list[str] = []

    async def handle(delivery: Delivery) -> None:
        heard.append("message")
        await delivery.ack()

    assert all(await Publisher(broker).publish_many([message() for _ in range(50)]))
    async with Consumer(
        broker, queue=_QUEUE, prefetch=100, handle=handle, on_subscribed=lambda _: heard.append("subscribed")
    ).open():
        await until(lambda: len(heard) == 51)
    assert heard == ["subscribed", *["message"] * 50]


async def test_a_killed_broker_costs_nothing(broker: Broker, rabbit_server: RabbitMQ) -> None:
    """Killed between and during publishing: everything arrives, on the same process's consumers."""
    ledger, publisher = Ledger(), Publisher(broker)
    events = events_queue("sample-events", ["sample.#"], exclusive=True)
    async with Consumer(broker, queue=(_QUEUE, events), prefetch=50, handle=ledger.handle).open():
        before = [message() for _ in range(200)]
        await publish_all(publisher, before)
        await asyncio.to_thread(rabbit_server.kill)
        with pytest.raises(Unavailable) as caught:
            await broker.ping()
        assert caught.value.code == "BROKER_ERROR"
        after = [message() for _ in range(200)]
        sending = asyncio.create_task(publish_all(publisher, after))
        await asyncio.to_thread(rabbit_server.heal)
        await sending
        await ledger.wait_for([*before, *after])
        await broker.ping()


async def test_a_frozen_broker_is_not_confirmed(broker: Broker, rabbit_server: RabbitMQ) -> None:
    """Nothing answers: the outcome is False within the bound, and all is well after the thaw."""
    ledger, publisher = Ledger(), Publisher(broker, confirm_timeout_seconds=0.5)
    async with Consumer(broker, queue=_QUEUE, prefetch=50, handle=ledger.handle).open():
        first = message()
        await publish_all(publisher, [first])
        await ledger.wait_for([first])
        rabbit_server.pause()
        late = [message() for _ in range(5)]
        assert await publisher.publish_many(late) == [False] * 5
        rabbit_server.resume()
        await publish_all(publisher, late)
        await ledger.wait_for(late)


async def test_a_silent_consumer_subscribes_again(broker: Broker) -> None:
    """Its subscription is taken away without a word; the watchdog sees messages waiting and starts over."""
    ledger = Ledger()
    consumer = Consumer(broker, queue=_QUEUE, prefetch=10, handle=ledger.handle)
    async with consumer.open():
        first, second = message(), message()
        await publish_all(Publisher(broker), [first])
        await ledger.wait_for([first])
        subscription = consumer._subscriptions[0]
        assert subscription._channel is not None
        await subscription._channel.basic_cancel(subscription._tag)
        await publish_all(Publisher(broker), [second])
        await ledger.wait_for([second])


async def test_paused_nothing_is_delivered_and_late_acks_count(broker: Broker) -> None:
    """What was taken before the pause can be settled in it; what came meanwhile waits for the resume."""
    taken: list[Delivery] = []

    async def hold(delivery: Delivery) -> None:
        taken.append(delivery)

    consumer = Consumer(broker, queue=_QUEUE, prefetch=10, handle=hold)
    async with consumer.open():
        await publish_all(Publisher(broker), [message()])
        await until(lambda: len(taken) == 1)
        await consumer.pause()
        await publish_all(Publisher(broker), [message()])
        await taken[0].ack()
        assert await broker.ready_count(_QUEUE.name) == 1
        assert len(taken) == 1
        await consumer.resume()
        await until(lambda: len(taken) == 2)
        assert not taken[1].redelivered


async def test_a_late_ack_on_a_lost_connection_is_no_error(broker: Broker, rabbit_server: RabbitMQ) -> None:
    """The broker has put the message back already; it is delivered again, marked as such."""
    taken: list[Delivery] = []

    async def hold(delivery: Delivery) -> None:
        taken.append(delivery)

    async with Consumer(broker, queue=_QUEUE, prefetch=10, handle=hold).open():
        await publish_all(Publisher(broker), [message()])
        await until(lambda: len(taken) == 1)
        await asyncio.to_thread(rabbit_server.kill)
        await asyncio.to_thread(rabbit_server.heal)
        await taken[0].ack()
        await until(lambda: len(taken) == 2)
        assert taken[1].redelivered
        await taken[1].ack()


@pytest.mark.parametrize("error", [Internal("a bug"), Unavailable("a store is away"), ValueError("a surprise")])
async def test_a_failing_handler_gets_its_message_again(broker: Broker, error: Exception) -> None:
    """Whatever it raises, the message returns to the queue and is not lost."""
    ledger, failures = Ledger(), iter([error])

    async def handle(delivery: Delivery) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        await ledger.handle(delivery)

    async with Consumer(broker, queue=_QUEUE, prefetch=10, handle=handle).open():
        sent = message()
        await publish_all(Publisher(broker), [sent])
        await ledger.wait_for([sent])


async def test_what_cannot_be_understood_is_parked(broker: Broker) -> None:
    """Refused by the handler or not even a message: both end in the parking queue, and the queue is free."""

    async def refuse(_delivery: Delivery) -> None:
        raise Invalid("not a known kind")

    async with Consumer(broker, queue=_QUEUE, prefetch=10, handle=refuse).open() as consumer:
        await publish_all(Publisher(broker), [message()])
        channel = await broker.channel(Use.PUBLISH)
        await channel.basic_publish(b"garbage", exchange=WORK, routing_key=_QUEUE.name)
        async with asyncio.timeout(20):
            while await broker.ready_count(PARKING) != 2:
                await asyncio.sleep(0.02)
        await until(lambda: consumer.unsettled == 0)
    parked = await (await broker.channel(Use.CONSUME)).basic_get(PARKING)
    headers = parked.header.properties.headers or {}
    assert headers["mesh-parked-queue"] == _QUEUE.name
    assert headers["mesh-parked-reason"]


async def test_a_blocked_broker_is_told_at_once(broker: Broker, stores, amqp_url: str) -> None:
    """Under a memory alarm publishing raises with nothing sent, and goes on when the alarm is over."""
    publisher, sent = Publisher(broker, confirm_timeout_seconds=0.5), message()
    stores.vhosts.call("vm_memory_monitor", "set_vm_memory_high_watermark", "[0.00001]")
    try:
        while not broker.blocked:
            await publisher.publish_many([message()])
        with pytest.raises(Unavailable):
            await publisher.publish_many([sent])
    finally:
        stores.vhosts.call("vm_memory_monitor", "set_vm_memory_high_watermark", "[0.4]")
    await until(lambda: not broker.blocked)
    await publish_all(publisher, [sent])


async def test_opening_does_not_wait_for_the_broker(amqp_url: str, rabbit_server: RabbitMQ) -> None:
    """Started without a broker, publisher and consumer work as soon as it is there."""
    await asyncio.to_thread(rabbit_server.kill)
    ledger = Ledger()
    async with (
        open_broker(Rabbit(url=amqp_url), "early") as broker,
        Consumer(broker, queue=_QUEUE, prefetch=10, handle=ledger.handle).open(),
    ):
        broker.expect(_QUEUE)
        with pytest.raises(Unavailable):
            await Publisher(broker).publish_many([message()])
        await asyncio.to_thread(rabbit_server.heal)
        sent = message()
        await publish_all(Publisher(broker), [sent])
        await ledger.wait_for([sent])
