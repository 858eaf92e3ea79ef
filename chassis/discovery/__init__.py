"""Where the instances of a service are: one interface, several backends, chosen by MESH_DISCOVERY.

The last non-empty answer is kept for ever: what is really gone is noticed by those who call it (ejection), and a
lookup that fails must never empty a set that works.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from chassis.config import Discovery
from chassis.lifecycle import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where one instance listens."""

    host: str
    port: int


class Directory(Protocol):
    """What those who call a service are given."""

    def instances(self, service: str) -> tuple[Address, ...]:
        """The instances known now, from memory; the same object until something changes. Empty: none has been found
        yet.
        """


class StaticDirectory:
    """The addresses in the settings."""

    def __init__(self, settings: Discovery) -> None:
        self._settings = settings
        self._known: dict[str, tuple[Address, ...]] = {}

    def instances(self, service: str) -> tuple[Address, ...]:
        if service not in self._known:
            pairs = (text.rpartition(":") for text in self._settings.static_addresses(service))
            self._known[service] = tuple(Address(host=host, port=int(port)) for host, _, port in pairs)
        return self._known[service]


@asynccontextmanager
async def open_discovery(host: Host, settings: Discovery) -> AsyncIterator[Directory]:
    """Lookups for as long as it is open. Never fails because the backend is away."""
    del host
    yield StaticDirectory(settings)


@asynccontextmanager
async def register(host: Host, settings: Discovery, service: str, address: str, port: int) -> AsyncIterator[None]:
    """Announces this process for as long as it is open; it disappears first of all when the host drains."""
    del host, settings, service, address, port
    yield
