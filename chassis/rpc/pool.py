"""The instances of one service: a channel to each, a picker, ejection of those that fail, and a gentle goodbye.

Least in flight of two random ones; an instance that fails on the transport is left out for a while, longer each time;
when all are left out the one whose time is up first is asked, because refusing everything helps nobody.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import grpc

from chassis import telemetry
from chassis.discovery import Address, Directory
from chassis.errors import Unavailable
from chassis.logging import get_logger

log = get_logger(__name__)

_EJECT_FIRST_SECONDS = 0.5
_EJECT_MOST_SECONDS = 15.0
_GOODBYE_SECONDS = 30.0
_READY_WITHIN_SECONDS = 1.0

_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # A stopped process still accepts TCP; only an unanswered ping tells. Before the lease of a worker session is over,
    # so that its heartbeats and outcomes find another instance.
    ("grpc.keepalive_time_ms", 3000),
    ("grpc.keepalive_timeout_ms", 4000),
    # The library looks at this one, and waits for a minute by default.
    ("grpc.http2.ping_timeout_ms", 4000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    # Retries are ours: they know the contract and have a budget.
    ("grpc.enable_retries", 0),
    # Each instance gets connections of its own, also when two pools name the same address.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


class Instance:
    """One instance of a service and how it has been doing. `in_flight` is kept by whoever calls it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(f"{address.host}:{address.port}", options=_CHANNEL_OPTIONS)
        self.in_flight = 0
        self.gone = False
        self.ejected_until = 0.0
        self._failures = 0
        # Whatever a user of the pool hangs onto the instance (a lane), closed with it.
        self.attachment: Any = None

    async def wait_ready(self, timeout_seconds: float) -> bool:
        """Whether the connection stands, after waiting a moment for it. Nothing has been sent when it does not."""
        if self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return True
        try:
            async with asyncio.timeout(min(timeout_seconds, _READY_WITHIN_SECONDS)):
                await self.channel.channel_ready()
        except TimeoutError:
            return False
        return True

    def succeeded(self) -> None:
        """A call got an answer, whatever the answer was."""
        self._failures = 0
        self.ejected_until = 0.0

    def failed(self) -> None:
        """A call got no answer: leave this instance out for a while."""
        seconds = min(_EJECT_MOST_SECONDS, _EJECT_FIRST_SECONDS * 2.0**self._failures)
        self._failures += 1
        self.ejected_until = time.monotonic() + seconds


class Pool:
    """All instances of a service as discovery knows them."""

    def __init__(self, service: str, directory: Directory, attach: Callable[[Instance], Any] | None = None) -> None:
        self.service = service
        self._directory = directory
        self._attach = attach
        self._known: tuple[Address, ...] = ()
        self._instances: dict[Address, Instance] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def pick(self, avoid: Instance | None = None) -> Instance:
        """The instance to ask next, another one than `avoid` where there is one. Raises Unavailable when none is
        known.
        """
        known = self._directory.instances(self.service)
        if known is not self._known:
            self._follow(known)
        candidates = list(self._instances.values())
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            raise Unavailable(private=f"no instance of {self.service} is known", retry_after_seconds=1.0)
        others = [one for one in candidates if one is not avoid]
        now = time.monotonic()
        healthy = [one for one in others if one.ejected_until <= now]
        if not healthy:
            return min(others, key=lambda one: one.ejected_until)
        if len(healthy) == 1:
            return healthy[0]
        first, second = random.sample(healthy, 2)
        return first if first.in_flight <= second.in_flight else second

    def eject(self, instance: Instance) -> None:
        """Leaves an instance out for a while."""
        instance.failed()
        telemetry.RPC_EJECTIONS.labels(self.service).inc()

    def _follow(self, known: tuple[Address, ...]) -> None:
        self._known = known
        for address in known:
            if address not in self._instances:
                self._instances[address] = instance = Instance(address)
                instance.channel.get_state(try_to_connect=True)
                if self._attach is not None:
                    instance.attachment = self._attach(instance)
        for address in set(self._instances) - set(known):
            task = asyncio.get_running_loop().create_task(self._leave(self._instances.pop(address)))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _leave(self, instance: Instance) -> None:
        """Lets the calls under way end, then closes."""
        instance.gone = True
        until = time.monotonic() + _GOODBYE_SECONDS
        while instance.in_flight and time.monotonic() < until:  # noqa: ASYNC110 - rare, and the count is a plain int
            await asyncio.sleep(0.1)
        await _close(instance)

    async def close(self) -> None:
        """Closes every channel."""
        for task in tuple(self._leaving):
            task.cancel()
        instances = list(self._instances.values())
        self._instances.clear()
        await asyncio.gather(*(_close(one) for one in instances), *self._leaving, return_exceptions=True)


async def _close(instance: Instance) -> None:
    if instance.attachment is not None:
        await instance.attachment.close()
    await instance.channel.close(None)
