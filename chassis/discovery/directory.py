"""What those who look services up are given, and the rules by which a directory remembers.

An empty answer never replaces instances that are known: what is really gone is noticed by those who call it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from chassis.config import Discovery
from chassis.endless import end, endless


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Address:
    """Where one instance listens. An IPv6 host stands in brackets."""

    host: str
    port: int


class Directory(Protocol):
    """What those who call a service are given."""

    def instances(self, service: str) -> tuple[Address, ...]:
        """The instances known now, from memory; the same object until something changes. Empty: none has been found
        yet.
        """


class LiveDirectory(Directory, Protocol):
    """A directory that can be waited on."""

    async def changed(self, service: str, known: tuple[Address, ...]) -> tuple[Address, ...]:
        """Waits until `instances` is another object than `known`, and returns it."""


def static_instances(settings: Discovery, service: str) -> tuple[Address, ...]:
    """The addresses in the settings, in their order."""
    pairs = (text.rpartition(":") for text in settings.static_addresses(service))
    return tuple(Address(host=host, port=int(port)) for host, _, port in pairs)


Remember = Callable[[Iterable[Address]], None]
Follow = Callable[[str, Remember], Awaitable[None]]


class WatchedDirectory:
    """Instances that a watch keeps current. The first question about a service starts its one watch.

    Until that has found something the addresses in the settings stand in, so a start without the backend works.
    """

    def __init__(self, settings: Discovery, follow: Follow) -> None:
        self._settings = settings
        self._follow = follow
        self._known: dict[str, tuple[Address, ...]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._watches: list[asyncio.Task[None]] = []

    def instances(self, service: str) -> tuple[Address, ...]:
        if service not in self._known:
            self._known[service] = static_instances(self._settings, service)
            self._news[service] = asyncio.Event()
            watch = endless(f"discovery:{service}", lambda: self._watch(service))
            self._watches.append(asyncio.get_running_loop().create_task(watch, name=f"discovery:{service}"))
        return self._known[service]

    async def changed(self, service: str, known: tuple[Address, ...]) -> tuple[Address, ...]:
        while (now := self.instances(service)) is known:
            await self._news[service].wait()
        return now

    async def close(self) -> None:
        """Ends the watches; what is known stays."""
        await end(self._watches)

    async def _watch(self, service: str) -> None:
        await self._follow(service, lambda found: self._remember(service, found))

    def _remember(self, service: str, found: Iterable[Address]) -> None:
        instances = tuple(sorted(set(found)))
        if not instances or instances == self._known[service]:
            return
        self._known[service] = instances
        # Whoever waits now is woken; whoever asks later waits for the next change.
        self._news[service].set()
        self._news[service] = asyncio.Event()
