"""The outbox and its relay over a real Postgres and a real RabbitMQ."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from sqlalchemy import MetaData, Table, text
from sqlalchemy.schema import CreateSchema, CreateTable

from chassis.clock import SystemClock
from chassis.config import Postgres, Rabbit
from chassis.database import Database, open_database
from chassis.messaging.connection import Broker, Use, open_broker
from chassis.messaging.message import WORK, Message
from chassis.messaging.outbox import Relay, enqueue, outbox_table
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import QueueSpec, work_queue
from deploy.local.stores.postgres import Postgres as PostgresServer
from deploy.local.stores.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]

_QUEUE = work_queue("outbox", 0)
_numbers = itertools.count(1)


def message(routing_key: str = _QUEUE.name) -> Message:
    return Message(
        exchange=WORK,
        routing_key=routing_key,
        type="mesh.sample.v1.Pointer",
        body=b"\x00pointer",
        id=f"m-{next(_numbers)}",
        time=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        source="sample",
        subject="thing",
        sequence=3,
        headers={"kind": "agent.run"},
    )


@dataclass
class Site:
    database: Database
    table: Table
    broker: Broker

    def relay(self) -> Relay:
        return Relay(self.database, self.table, Publisher(self.broker, confirm_timeout_seconds=30), SystemClock())

    async def write(self, messages: Sequence[Message], door: str = "driver") -> None:
        async with getattr(self.database, door)() as connection:
            await enqueue(connection, self.table, messages)

    async def left(self) -> int:
        async with self.database.driver() as driver:
            count: int = await driver.fetchval(f"SELECT count(*) FROM {self.table.fullname}")
            return count

    async def until_left(self, number: int) -> None:
        async with asyncio.timeout(60):
            while await self.left() != number:
                await asyncio.sleep(0.02)

    async def drained(self, queue: str = _QUEUE.name) -> list[str]:
        """Takes everything out of a queue and returns the ids in their order."""
        async with asyncio.timeout(20):
            await self.broker.wait_connected(Use.CONSUME)
        channel = await self.broker.channel(Use.CONSUME)
        ids: list[str] = []
        while (got := await channel.basic_get(queue, no_ack=True)).delivery_tag is not None:
            ids.append(str(got.header.properties.message_id))
        await channel.close()
        return ids


@pytest.fixture
async def site(database_url: str, amqp_url: str) -> AsyncIterator[Site]:
    metadata = MetaData(schema="sample")
    table = outbox_table(metadata)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(Postgres(url=database_url), "sample"))
        broker = await stack.enter_async_context(open_broker(Rabbit(url=amqp_url), "test"))
        async with database.transaction() as connection:
            await connection.execute(CreateSchema("sample"))
            await connection.execute(CreateTable(table))
        broker.expect(_QUEUE)
        async with asyncio.timeout(20):
            await broker.wait_connected(Use.PUBLISH)
            await broker.wait_connected(Use.CONSUME)
        await broker.ensure()
        yield Site(database, table, broker)


@pytest.fixture
async def running(site: Site) -> AsyncIterator[Relay]:
    relay = site.relay()
    task = asyncio.create_task(relay.run())
    yield relay
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("door", ["transaction", "driver"])
async def test_what_is_committed_is_published_in_order(site: Site, running: Relay, door: str) -> None:
    """Both doors write the same rows; confirmed ones leave the table."""
    sent = [message() for _ in range(700)]
    await site.write(sent, door)
    running.wake()
    await site.until_left(0)
    assert await site.drained() == [each.id for each in sent]


async def test_what_is_rolled_back_is_never_published(site: Site, running: Relay) -> None:
    """The message lives and dies with its transaction."""
    lost, kept = message(), message()
    async with site.database.transaction() as connection:
        await enqueue(connection, site.table, [lost])
        await connection.rollback()
    await site.write([kept])
    running.wake()
    await site.until_left(0)
    assert await site.drained() == [kept.id]


async def test_a_lower_number_that_commits_later_is_still_published(site: Site) -> None:
    """The relay deletes what it published and not what stands below it."""
    relay, late, early = site.relay(), message(), message()
    async with site.database.driver() as driver:
        await enqueue(driver, site.table, [late])
        await site.write([early])
        assert await relay.relay_once() == 1
    assert await relay.relay_once() == 1
    assert await site.drained() == [early.id, late.id]


async def test_refused_rows_let_the_others_pass(site: Site, running: Relay) -> None:
    """More than a batch of messages without a queue do not hold up the one behind them; later they go too."""
    refused = [message("work.later.p0") for _ in range(600)]
    good = message()
    await site.write([*refused, good])
    running.wake()
    await site.until_left(len(refused))
    assert await site.drained() == [good.id]
    site.broker.expect(QueueSpec(name="work.later.p0", exchange=WORK, bindings=("work.later.p0",)))
    await site.broker.ensure()
    await site.until_left(0)
    assert sorted(await site.drained("work.later.p0")) == sorted(each.id for each in refused)


async def test_the_broker_away_loses_nothing(site: Site, running: Relay, rabbit_server: RabbitMQ) -> None:
    """Killed and back: rows wait, are counted, and are all published."""
    await asyncio.to_thread(rabbit_server.kill)
    sent = [message() for _ in range(50)]
    await site.write(sent)
    running.wake()
    async with asyncio.timeout(20):
        while running.backlog != len(sent):
            await asyncio.sleep(0.02)
    await asyncio.to_thread(rabbit_server.heal)
    await site.until_left(0)
    assert set(await site.drained()) == {each.id for each in sent}


async def test_the_database_away_stops_nothing_for_ever(
    site: Site, running: Relay, postgres_server: PostgresServer
) -> None:
    """Killed and back: the relay goes on with what was committed."""
    first, second = message(), message()
    await site.write([first])
    await site.until_left(0)
    await asyncio.to_thread(postgres_server.kill)
    await asyncio.to_thread(postgres_server.heal)
    await site.write([second])
    await site.until_left(0)
    assert set(await site.drained()) == {first.id, second.id}


async def test_two_replicas_keep_the_order(site: Site) -> None:
    """Only one relays at a time, so nothing is published twice and nothing overtakes."""
    relays = [site.relay(), site.relay()]
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    sent: list[Message] = []
    for _ in range(30):
        part = [message() for _ in range(20)]
        sent += part
        await site.write(part)
        for relay in relays:
            relay.wake()
    await site.until_left(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert await site.drained() == [each.id for each in sent]


async def test_a_service_may_write_rows_with_its_own_statement(site: Site, running: Relay) -> None:
    """Six columns are enough; the rest have their defaults."""
    async with site.database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO sample.outbox (id, exchange, routing_key, type, body, source)"
                f" VALUES ('own', 'mesh.work', '{_QUEUE.name}', 'mesh.sample.v1.Pointer', 'x', 'sample')"
            )
        )
    running.wake()
    await site.until_left(0)
    assert await site.drained() == ["own"]


async def test_many_messages_leave_quickly(site: Site) -> None:
    """Prints how many are relayed a second; the number is for the reader and not asserted."""
    relay, count = site.relay(), 10_000
    for _ in range(count // 500):
        await site.write([message() for _ in range(500)])
    began = time.perf_counter()
    while await relay.relay_once():
        pass
    sys.stdout.write(f"\nrelayed {count / (time.perf_counter() - began):.0f} messages/s\n")
    assert await site.left() == 0
    assert await site.broker.ready_count(_QUEUE.name) == count
