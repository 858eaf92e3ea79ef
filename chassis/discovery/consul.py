"""Consul: lookups by blocking queries, and the registration of this process with the local agent.

Works with Consul 1.8 and later, and without any: until it answers, and when it stops answering, what is known stays.
"""

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from consul import Check, ConsulException
from consul.aio import Consul

from chassis import telemetry
from chassis.config import Discovery
from chassis.discovery.directory import Address, Remember
from chassis.logging import get_logger
from chassis.retry import backoff_seconds

log = get_logger(__name__)

_WAIT_SECONDS = 55
# The server adds up to a sixteenth to the wait; a client that gives up first would never see it end.
_ANSWER_SECONDS = _WAIT_SECONDS * 17 / 16 + 5
_CALL_SECONDS = 2.0
# A change seldom comes alone: what follows within this time is seen with it.
_DEBOUNCE_SECONDS = 0.1
_MOST_BACKOFF_SECONDS = 10.0
# An agent that came back with an empty data directory has forgotten us.
_LOOK_EVERY_SECONDS = 5.0

# The last three: an answer that cannot be read, as from something else that listens there.
TROUBLE = (ConsulException, aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError)


@asynccontextmanager
async def open_client(settings: Discovery) -> AsyncIterator[Consul]:
    """A client of the agent; opening does not connect."""
    client = _client(settings)
    try:
        yield client
    finally:
        await client.close()


def _client(settings: Discovery) -> Consul:
    url = urlsplit(settings.consul_url)
    with warnings.catch_warnings():
        # py-consul gives aiohttp its TLS settings under a name that aiohttp is about to drop.
        warnings.simplefilter("ignore", DeprecationWarning)
        return Consul(
            host=url.hostname or "127.0.0.1",
            port=url.port or (443 if url.scheme == "https" else 80),
            scheme=url.scheme or "http",
            token=settings.consul_token.get_secret_value() or None,
            # Any server may answer: a set that is a moment old is as good, and there is one without a leader as well.
            consistency="stale",
            verify=url.scheme == "https",
        )


class ConsulLookup:
    """One blocking query at a time for each service that is followed."""

    def __init__(self, client: Consul) -> None:
        self._client = client

    async def follow(self, service: str, remember: Remember) -> None:
        """Tells what is passing, for ever."""
        index, failures = 0, 0
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    written, nodes = await self._client.health.service(
                        service, passing=True, index=index or None, wait=f"{_WAIT_SECONDS}s"
                    )
                index = next_index(index, int(written))
                remember(address_of(node) for node in nodes or ())
            except TROUBLE as error:
                telemetry.DISCOVERY_STALE.labels(service).inc()
                if failures == 0:
                    told = f"{type(error).__name__}: {error}"
                    log.warning("Consul cannot be asked; the last known instances stay", service=service, error=told)
                failures += 1
                index = 0
                await asyncio.sleep(backoff_seconds(failures, first=0.1, most=_MOST_BACKOFF_SECONDS))
            else:
                failures = 0
                await asyncio.sleep(_DEBOUNCE_SECONDS)


def next_index(before: int, answered: int) -> int:
    """What to wait for next: an index that went backwards (a server restored from a snapshot) starts over."""
    return answered if answered >= max(before, 1) else 0


def address_of(node: Mapping[str, Any]) -> Address:
    """Where an entry of ``/v1/health/service`` listens; a service without an address is on its node's."""
    service = node["Service"]
    host = service["Address"] or node["Node"]["Address"]
    return Address(host=f"[{host}]" if ":" in host else host, port=service["Port"])


class Registration:
    """The entry of this process in the agent's list: put there, again when the agent forgot it, and taken out once.

    It begins critical and passes when its own check does, so nobody calls a process that is not ready.
    """

    def __init__(self, client: Consul, *, service: str, address: str, port: int, http_check: str = "") -> None:
        self._client = client
        self._service = service
        self._address = address
        self._port = port
        self._id = f"{service}-{address}-{port}"
        times = {"interval": "2s", "timeout": "1s", "deregister": "10m"}
        grpc_target = f"{address}:{port}/readiness"
        self._check = Check.http(http_check, **times) if http_check else Check.grpc(grpc_target, **times)
        self._left = False
        self._turn = asyncio.Lock()

    async def hold(self) -> None:
        """Keeps the entry there, for ever."""
        failures = 0
        while True:
            try:
                await self._ensure()
            except TROUBLE as error:
                if failures == 0:
                    told = f"{type(error).__name__}: {error}"
                    log.warning("Consul does not take the registration; trying on", service=self._service, error=told)
                failures += 1
                await asyncio.sleep(backoff_seconds(failures, first=0.2, most=_LOOK_EVERY_SECONDS))
            else:
                failures = 0
                await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def leave(self) -> None:
        """Takes the entry out; does nothing the second time. An agent that is away is not waited for."""
        async with self._turn:
            if self._left:
                return
            self._left = True
            with suppress(*TROUBLE):
                # Its check fails from now on anyway, and the agent itself removes the entry after ten minutes.
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._client.agent.service.deregister(self._id)

    async def _ensure(self) -> None:
        async with self._turn, asyncio.timeout(_CALL_SECONDS):
            if self._left or self._id in (await self._client.agent.services() or {}):
                return
            await self._client.agent.service.register(
                self._service,
                service_id=self._id,
                address=self._address.strip("[]"),
                port=self._port,
                check=self._check,
                replace_existing_checks=True,
            )
        log.info("Registered with Consul", service=self._service, id=self._id)
