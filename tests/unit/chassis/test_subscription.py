"""The end of a consumer whose connection ends at the same time."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from chassis.messaging.consumer import Consumer
from chassis.messaging.topology import work_queues


class FakeChannel:
    """Consumes, and ends a cancelled consumer as it is told to."""

    def __init__(self, end: Any) -> None:
        self.is_closed = False
        self.consuming = asyncio.Event()
        self.on_consumer_cancel_callbacks: set[Any] = set()
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end = end

    async def basic_qos(self, **_options: object) -> None:
        return

    async def basic_consume(self, *_arguments: object, **_options: object) -> SimpleNamespace:
        self.consuming.set()
        return SimpleNamespace(consumer_tag="tag")

    async def basic_cancel(self, *_arguments: object, **_options: object) -> None:
        await self._end()

    async def close(self) -> None:
        self.is_closed = True
        await self._end()


class FakeBroker:
    """Has a channel for everybody."""

    def __init__(self, end: Any) -> None:
        self.channels: list[FakeChannel] = []
        self._end = end

    async def wait_connected(self, _use: object) -> None:
        return

    async def channel(self, _use: object) -> FakeChannel:
        self.channels.append(FakeChannel(self._end))
        return self.channels[-1]

    async def declare(self, _channel: object, spec: Any) -> str:
        return str(spec.name)


async def _give_the_connection_up() -> None:
    """As aiormq does when heartbeats stay away: it cancels what waits for an answer."""
    answer = asyncio.get_running_loop().create_future()
    answer.cancel()
    await answer


async def _answer() -> None:
    return


async def _fail() -> None:
    raise ConnectionResetError


async def _forget_something() -> None:
    raise ZeroDivisionError


async def consume(broker: Any) -> None:
    """Until all queues are consumed."""
    async with (
        Consumer(broker, queue=work_queues("some"), prefetch=4, handle=lambda _: None).open(),
        asyncio.timeout(20),
    ):
        while len(broker.channels) < 4:
            await asyncio.sleep(0)
        for channel in broker.channels:
            await channel.consuming.wait()


@pytest.mark.parametrize("end", [_answer, _fail, _give_the_connection_up])
async def test_it_ends_without_a_word_and_leaves_nothing_behind(end: Any) -> None:
    """Whoever left the queues goes on, and may come back to them."""
    broker: Any = FakeBroker(end)
    before = asyncio.all_tasks()
    await consume(broker)
    assert asyncio.all_tasks() == before
    assert all(channel.is_closed for channel in broker.channels)


async def test_a_defect_at_its_end_leaves_nothing_behind_either() -> None:
    """It is told, and the supervisors have ended."""
    broker: Any = FakeBroker(_forget_something)
    before = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        await consume(broker)
    await asyncio.sleep(0)
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()
