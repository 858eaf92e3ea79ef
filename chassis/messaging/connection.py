"""Two connections to RabbitMQ that come back by themselves: one to publish, one to consume.

Two, because a broker short of memory or disk stops reading from connections that publish, and acknowledgements must not
wait behind that. Knows when the broker is there; what is said on a channel is its users' business.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum

import aio_pika
from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq import Channel

from chassis.config import Rabbit
from chassis.endless import end, endless, own_cancellation
from chassis.logging import get_logger
from chassis.messaging.link import BROKER_ERRORS, CALL_TIMEOUT_SECONDS, Link, away, told
from chassis.messaging.topology import (
    QueueSpec,
    Version,
    bind_queue,
    declare_exchanges,
    declare_queue,
)

log = get_logger(__name__)


class Use(Enum):
    """What a channel is for, which decides the connection it is on."""

    PUBLISH = "publish"
    CONSUME = "consume"


class Broker:
    """The broker as publishers and consumers see it.

    Opening never fails: away at start or later, it is looked for in the background, and what needs it raises
    Unavailable (code ``BROKER_ERROR``) or waits, as each method says.
    """

    def __init__(self, settings: Rabbit, name: str) -> None:
        url = settings.url.get_secret_value()
        self._specs: dict[str, QueueSpec] = {}
        self._links = {use: Link(url, f"{name}:{use.value}", self._declare_all) for use in Use}
        self._control: Channel | None = None
        self._control_lock = asyncio.Lock()
        self._declaring = asyncio.Lock()
        self._declarations: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether both connections stand."""
        return all(link.is_open for link in self._links.values())

    @property
    def blocked(self) -> bool:
        """Whether the broker refuses to read what we publish (its memory or disk alarm)."""
        return self._links[Use.PUBLISH].blocked

    @property
    def version(self) -> Version:
        """Of the server last connected to; empty before the first time."""
        return self._links[Use.CONSUME].version

    def expect(self, *specs: QueueSpec) -> None:
        """Declares these queues at every connect from now on.

        For those who publish to a queue whose consumers may not have started yet; `ensure` declares them at once.
        """
        self._specs.update((spec.name, spec) for spec in specs)

    async def ensure(self, *specs: QueueSpec) -> None:
        """Declares these queues now, and expects them from now on; without any, the exchanges and all that is expected,
        as after somebody deleted one. Raises Unavailable when the broker is away.
        """
        self.expect(*specs)
        wanted = list(specs) or list(self._specs.values())
        work = asyncio.create_task(self._declare(self._links[Use.PUBLISH], wanted, exchanges=not specs))
        self._declarations.add(work)
        work.add_done_callback(self._declarations.discard)
        # A channel whose opening is given up half-way makes the broker end the connection, which others share.
        await asyncio.shield(work)

    async def wait_connected(self, use: Use) -> None:
        """Waits until the connection for `use` stands."""
        await self._links[use].wait_open()

    async def channel(self, use: Use) -> Channel:
        """A new channel; with confirms when it is for publishing. Raises Unavailable when the broker is away."""
        try:
            return await self._links[use].channel(confirms=use is Use.PUBLISH)
        except (*BROKER_ERRORS, TimeoutError) as error:
            raise away(error) from error

    async def declare(self, channel: Channel, spec: QueueSpec) -> str:
        """Declares a queue on a consuming channel and returns its name on the broker.

        Raises what aio-pika raises. ChannelPreconditionFailed: the queue stands with other arguments (as an older
        release or broker declared it) and the channel is closed; `adopt` uses it as it stands.
        """
        link = self._links[Use.CONSUME]
        return await declare_queue(channel, spec, link.version, link.token)

    async def adopt(self, channel: Channel, spec: QueueSpec) -> str:
        """Binds a queue that stands with other arguments, and returns its name on the broker."""
        log.warning("A queue stands with other arguments and is used so", queue=spec.name)
        await bind_queue(channel, spec, spec.name)
        return spec.name

    async def ready_count(self, queue: str) -> int | None:
        """Messages that wait in a queue; None when it does not exist. Raises Unavailable when the broker is away."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                answer = await (await self._control_channel()).queue_declare(queue, passive=True)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return None
        except (*BROKER_ERRORS, TimeoutError) as error:
            raise away(error) from error
        return answer.message_count or 0

    async def ping(self) -> None:
        """One round trip on each connection. Raises Unavailable when the broker does not answer."""
        if not self._links[Use.PUBLISH].is_open:
            raise away(ConnectionError("no connection to publish on"))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                await (await self._control_channel()).exchange_declare("amq.topic", exchange_type="topic", passive=True)
        except (*BROKER_ERRORS, TimeoutError) as error:
            raise away(error) from error

    async def _control_channel(self) -> Channel:
        # On the consuming connection: an exclusive queue can be looked at from its own connection alone.
        async with self._control_lock:
            if self._control is None or self._control.is_closed:
                self._control = await self._links[Use.CONSUME].channel(confirms=False)
            return self._control

    async def _declare_all(self, link: Link) -> None:
        await self._declare(link, list(self._specs.values()), exchanges=True)

    async def _declare(self, link: Link, specs: Sequence[QueueSpec], *, exchanges: bool) -> None:
        async with self._declaring:
            try:
                await _declare_on(link, specs, exchanges=exchanges)
            except (*BROKER_ERRORS, TimeoutError) as error:
                raise away(error) from error


async def _declare_on(link: Link, specs: Sequence[QueueSpec], *, exchanges: bool) -> None:
    """All on one channel, and another one after each queue that stands with other arguments, which closes it."""
    channel = await link.channel(confirms=False)
    try:
        if exchanges:
            await _in_time(declare_exchanges(channel))
        for spec in specs:
            try:
                await _in_time(declare_queue(channel, spec, link.version, ""))
            except ChannelPreconditionFailed as error:
                log.warning("A queue stands with other arguments and is used so", queue=spec.name, error=told(error))
                channel = await link.channel(confirms=False)
                await _in_time(bind_queue(channel, spec, spec.name))
    finally:
        await close_channel(channel)


async def _in_time(work: Awaitable[object]) -> None:
    async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
        await work


@asynccontextmanager
async def open_broker(settings: Rabbit, name: str) -> AsyncIterator[Broker]:
    """Holds the connections for as long as it is open.

    Args:
        name: shown beside the connections in the broker's own pages; the instance's.
    """
    broker = Broker(settings, name)
    links = broker._links.values()  # noqa: SLF001 - its maker
    tasks = [asyncio.create_task(endless(link.name, link.hold), name=link.name) for link in links]
    try:
        yield broker
    finally:
        await end(tasks)
        await end(broker._declarations)  # noqa: SLF001 - its maker


async def close_channel(channel: Channel) -> None:
    """Closes a channel, which may have ended by itself."""
    with suppress(*BROKER_ERRORS, TimeoutError), own_cancellation():
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            await channel.close()
