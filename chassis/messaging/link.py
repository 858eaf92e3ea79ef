"""One connection to RabbitMQ, held up for ever: connect, serve until it ends, back off, start over.

Knows nothing of what is said on its channels.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError
from aiormq import Channel
from aiormq.exceptions import ChannelInvalidStateError

from chassis.errors import Unavailable
from chassis.logging import get_logger
from chassis.messaging.topology import Version, parse_version
from chassis.retry import backoff_seconds

log = get_logger(__name__)

# A peer that is silent for three of these and a bit is taken for dead.
_HEARTBEAT_SECONDS = 5
_CONNECT_TIMEOUT_SECONDS = 5.0
_MOST_BACKOFF_SECONDS = 1.0
CALL_TIMEOUT_SECONDS = 5.0

# What a broker, a channel or a socket that is gone makes aio-pika raise.
BROKER_ERRORS = (AMQPError, ChannelInvalidStateError, OSError, RuntimeError)


class Link:
    """A connection and its supervisor.

    Attributes:
        token: new for each connection; names what belongs to it alone.
        version: of the server last connected to.
    """

    def __init__(self, url: str, name: str, on_open: Callable[["Link"], Awaitable[None]]) -> None:
        self.name = name
        self.token = ""
        self.version: Version = ()
        self._url = url
        self._on_open = on_open
        self._connection: AbstractConnection | None = None
        self._open = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether the connection stands and the topology with it."""
        return self._open.is_set()

    @property
    def blocked(self) -> bool:
        """Whether the broker refuses to read from this connection (its memory or disk alarm)."""
        connection = self._connection
        if connection is None or connection.transport is None:
            return False
        return not _is_settled(connection.transport.connection.ready())

    async def wait_open(self) -> None:
        """Waits until the connection stands."""
        await self._open.wait()

    async def channel(self, *, confirms: bool) -> Channel:
        """A new channel. Raises what aio-pika raises, and Unavailable when there is no connection."""
        connection = self._connection
        if connection is None:
            raise away(ConnectionError(f"no connection {self.name}"))
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            channel: AbstractChannel = connection.channel(publisher_confirms=confirms, on_return_raises=False)
            await channel.initialize()
            underlay = await channel.get_underlay_channel()
        # The frames' own level: aio-pika's publish waits for the socket under the channel's lock, message by message.
        if not isinstance(underlay, Channel):
            raise TypeError(f"aio-pika stands on {type(underlay).__name__} and not on aiormq's channel")
        return underlay

    async def hold(self) -> None:
        """Connects, waits for the end, and starts over."""
        failures = 0
        while True:
            try:
                connection = await aio_pika.connect(
                    self._url,
                    timeout=_CONNECT_TIMEOUT_SECONDS,
                    heartbeat=_HEARTBEAT_SECONDS,
                    client_properties={"connection_name": self.name},
                )
            except (*BROKER_ERRORS, TimeoutError) as error:
                if failures == 0:
                    log.warning("The broker cannot be reached", connection=self.name, error=told(error))
                failures += 1
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_BACKOFF_SECONDS))
                continue
            try:
                failures = 0 if await self._use(connection) else failures + 1
            finally:
                self._connection = None
                self._open.clear()
                with suppress(*BROKER_ERRORS, TimeoutError):
                    async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                        await connection.close()
            if failures:
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_BACKOFF_SECONDS))

    async def _use(self, connection: AbstractConnection) -> bool:
        """Serves the connection until it ends; False when it could not even be prepared."""
        transport = connection.transport
        if transport is None:
            return False
        ended = transport.connection.closing
        self.token = secrets.token_hex(4)
        self.version = parse_version((transport.connection.server_properties or {}).get("version", ""))
        self._connection = connection
        try:
            await self._on_open(self)
        except (*BROKER_ERRORS, TimeoutError, Unavailable) as error:
            log.warning("The broker refused the topology", connection=self.name, error=told(error))
            return False
        self._open.set()
        log.info("Connected to the broker", connection=self.name, version=".".join(map(str, self.version)))
        await asyncio.wait([ended])
        reason = None if ended.cancelled() else ended.exception()
        log.warning("The connection to the broker ended", connection=self.name, error=told(reason))
        return True


def away(error: BaseException) -> Unavailable:
    """What callers hear while the broker is away."""
    return Unavailable(
        "The message broker is unavailable", code="BROKER_ERROR", private=told(error), retry_after_seconds=1
    )


def told(error: BaseException | None) -> str:
    """An error in a line of the log."""
    return "" if error is None else f"{type(error).__name__}: {error}"


def _is_settled(awaitable: Awaitable[None]) -> bool:
    """Whether awaiting would return at once. aiormq tells of a blocked connection in no other public way."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration:
        return True
    steps.close()
    return False
