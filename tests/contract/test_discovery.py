"""One behaviour of discovery over all its backends: static, DNS and a real Consul."""

import asyncio
import socket
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from chassis.clock import SystemClock
from chassis.config import Discovery, Process
from chassis.discovery import Address, LiveDirectory, open_discovery
from chassis.lifecycle import Host


@dataclass
class Case:
    settings: Discovery
    service: str
    expected: tuple[Address, ...]


def _static(_request: pytest.FixtureRequest) -> Case:
    settings = Discovery(backend="static", tasks_address="127.0.0.1:7001,127.0.0.1:7002")
    expected = (Address(host="127.0.0.1", port=7001), Address(host="127.0.0.1", port=7002))
    return Case(settings, "tasks", expected)


def _dns(_request: pytest.FixtureRequest) -> Case:
    settings = Discovery(backend="dns", dns_suffix="", dns_port=7001, tasks_address="127.0.0.9:1")
    return Case(settings, "localhost", (Address(host="127.0.0.1", port=7001),))


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _consul(request: pytest.FixtureRequest) -> Case:
    url, port = request.getfixturevalue("consul_url"), request.getfixturevalue("listener")
    service = f"contract-{uuid.uuid4().hex[:8]}"
    body = (
        f'{{"Name": "{service}", "ID": "{service}-1", "Address": "127.0.0.1", "Port": {port},'
        f' "Check": {{"TCP": "127.0.0.1:{port}", "Interval": "100ms", "Timeout": "1s"}}}}'
    )
    call = urllib.request.Request(f"{url}/v1/agent/service/register", data=body.encode(), method="PUT")
    urllib.request.urlopen(call, timeout=5).close()
    return Case(Discovery(backend="consul", consul_url=url), service, (Address(host="127.0.0.1", port=port),))


_BACKENDS = [
    pytest.param(_static, id="static"),
    pytest.param(_dns, id="dns"),
    pytest.param(_consul, id="consul", marks=pytest.mark.consul),
]


@pytest.fixture
def host() -> Host:
    return Host("test", Process(), SystemClock(), AsyncExitStack())


@pytest.fixture(params=_BACKENDS)
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param(request)
    return made


async def _found(directory: LiveDirectory, case: Case) -> tuple[Address, ...]:
    known = directory.instances(case.service)
    async with asyncio.timeout(20):
        while known != case.expected:
            known = await directory.changed(case.service, known)
    return known


async def test_instances_are_found(case: Case, host: Host) -> None:
    """Asking once is enough: the set arrives and names every instance."""
    async with open_discovery(host, case.settings) as directory:
        assert await _found(directory, case) == case.expected


async def test_the_set_is_the_same_object_until_it_changes(case: Case, host: Host) -> None:
    """Callers compare by identity at every call, so nothing new means nothing to do."""
    async with open_discovery(host, case.settings) as directory:
        known = await _found(directory, case)
        assert all(directory.instances(case.service) is known for _ in range(10))


async def test_an_unknown_service_has_no_instances(case: Case, host: Host) -> None:
    """No answer is an empty set and no error."""
    async with open_discovery(host, case.settings) as directory:
        assert directory.instances("no-such-service.invalid") == ()


async def test_waiting_for_a_change_can_be_given_up(case: Case, host: Host) -> None:
    """A waiter that is cancelled leaves nothing behind."""
    async with open_discovery(host, case.settings) as directory:
        known = await _found(directory, case)
        waiter = asyncio.create_task(directory.changed(case.service, known))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert directory.instances(case.service) is known
