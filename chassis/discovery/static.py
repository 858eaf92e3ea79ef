"""Lookups in the settings: a fixed set, for one machine and for tests."""

import asyncio

from chassis.config import Discovery
from chassis.discovery.directory import Address, static_instances


class StaticDirectory:
    """The addresses in the settings."""

    def __init__(self, settings: Discovery) -> None:
        self._settings = settings
        self._known: dict[str, tuple[Address, ...]] = {}

    def instances(self, service: str) -> tuple[Address, ...]:
        if service not in self._known:
            self._known[service] = static_instances(self._settings, service)
        return self._known[service]

    async def changed(self, service: str, known: tuple[Address, ...]) -> tuple[Address, ...]:
        if (now := self.instances(service)) is known:
            # Settings do not change while the process runs.
            await asyncio.Event().wait()
        return now
