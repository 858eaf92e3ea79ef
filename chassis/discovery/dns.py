"""Lookups by name: a headless service of Kubernetes resolves to the addresses of its ready pods."""

import asyncio
import socket

from chassis import telemetry
from chassis.config import Discovery
from chassis.discovery.directory import Address, Remember
from chassis.logging import get_logger
from chassis.retry import backoff_seconds

log = get_logger(__name__)

_EVERY_SECONDS = 5.0


class DnsLookup:
    """Asks for ``<service><suffix>`` every five seconds."""

    def __init__(self, settings: Discovery, *, every_seconds: float = _EVERY_SECONDS) -> None:
        self._settings = settings
        self._every_seconds = every_seconds

    async def follow(self, service: str, remember: Remember) -> None:
        """Tells what is found, for ever."""
        name = f"{service}{self._settings.dns_suffix}"
        failures = 0
        while True:
            try:
                remember(await self._resolve(name))
            except (OSError, UnicodeError) as error:
                telemetry.DISCOVERY_STALE.labels(service).inc()
                if failures == 0:
                    log.warning("A name does not resolve; the last known instances stay", name=name, error=str(error))
                failures += 1
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=self._every_seconds))
            else:
                failures = 0
                await asyncio.sleep(self._every_seconds)

    async def _resolve(self, name: str) -> list[Address]:
        port = self._settings.dns_port
        answers = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
        four = [Address(host=str(where[0]), port=port) for family, *_, where in answers if family == socket.AF_INET]
        # With both families each instance would stand there twice.
        return four or [Address(host=f"[{where[0]}]", port=port) for *_, where in answers]
