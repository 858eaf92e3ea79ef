"""Registration and lookups with a real Consul that forgets, dies and comes back."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from chassis.clock import SystemClock
from chassis.config import Discovery, Process, Rpc
from chassis.discovery import Address, open_discovery, register
from chassis.discovery.consul import open_client
from chassis.lifecycle import Host
from chassis.rpc.server import open_server
from deploy.local.ports import free_port
from deploy.local.stores.consul import Consul

pytestmark = pytest.mark.consul


@dataclass
class Case:
    settings: Discovery
    service: str
    port: int


@pytest.fixture
def host() -> Host:
    return Host("test", Process(), SystemClock(), AsyncExitStack())


@pytest.fixture
async def ready_url() -> AsyncIterator[str]:
    """Answers every request with 200, as a ready process does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    server.close()


@pytest.fixture
def case(consul_url: str) -> Case:
    port = free_port()
    settings = Discovery(backend="consul", consul_url=consul_url)
    return Case(settings=settings, service=f"it-{uuid.uuid4().hex[:8]}", port=port)


async def _registered(case: Case) -> bool:
    async with open_client(case.settings) as client:
        return f"{case.service}-127.0.0.1-{case.port}" in await client.agent.services()


async def _until_registered(case: Case, *, is_there: bool = True) -> None:
    async with asyncio.timeout(20):
        while await _registered(case) is not is_there:
            await asyncio.sleep(0.05)


async def test_a_ready_process_is_found_and_leaves_first(case: Case, host: Host, ready_url: str) -> None:
    """Registered, checked, found; gone from the agent as soon as the drain begins."""
    async with AsyncExitStack() as stack:
        directory = await stack.enter_async_context(open_discovery(host, case.settings))
        entry = register(host, case.settings, case.service, "127.0.0.1", case.port, http_check=ready_url)
        await stack.enter_async_context(entry)
        async with asyncio.timeout(20):
            known = await directory.changed(case.service, directory.instances(case.service))
        assert known == (Address(host="127.0.0.1", port=case.port),)
        await host.drain()
        assert not await _registered(case)
    assert directory.instances(case.service) is known


async def test_a_process_that_is_not_ready_is_not_found(case: Case, host: Host) -> None:
    """It is in the agent's list, critical, and nobody is sent there."""
    async with (
        open_discovery(host, case.settings) as directory,
        register(host, case.settings, case.service, "127.0.0.1", case.port),
    ):
        await _until_registered(case)
        async with open_client(case.settings) as client:
            _, passing = await client.health.service(case.service, passing=True)
        assert passing == []
        assert directory.instances(case.service) == ()


async def test_a_grpc_service_is_found_once_it_is_ready(case: Case) -> None:
    """The agent asks the service's own health service; not ready means not found."""
    async with AsyncExitStack() as stack:
        host = Host(case.service, Process(), SystemClock(), stack)
        server = await host.enter(open_server(host, Rpc(), case.settings, register=[]))
        case.port = server.port
        directory = await host.enter(open_discovery(host, case.settings))
        await _until_registered(case)
        assert directory.instances(case.service) == ()
        await host.health.set_ready(True)
        async with asyncio.timeout(20):
            known = await directory.changed(case.service, ())
        assert known == (Address(host="127.0.0.1", port=server.port),)
        await host.drain()
        assert not await _registered(case)


async def test_an_agent_that_forgot_is_told_again(
    case: Case, host: Host, consul_server: Consul, ready_url: str
) -> None:
    """The agent dies and comes back empty; the entry returns and what was known stayed."""
    async with (
        open_discovery(host, case.settings) as directory,
        register(host, case.settings, case.service, "127.0.0.1", case.port, http_check=ready_url),
    ):
        async with asyncio.timeout(20):
            known = await directory.changed(case.service, directory.instances(case.service))
        await asyncio.to_thread(consul_server.kill)
        await asyncio.to_thread(consul_server.heal)
        await _until_registered(case)
        assert directory.instances(case.service) is known


async def test_without_consul_the_process_starts_and_registers_later(
    case: Case, host: Host, consul_server: Consul
) -> None:
    """Opening does not fail while the agent is away, and the entry appears when it is there."""
    await asyncio.to_thread(consul_server.kill)
    async with (
        open_discovery(host, case.settings) as directory,
        register(host, case.settings, case.service, "127.0.0.1", case.port),
    ):
        assert directory.instances(case.service) == ()
        await asyncio.to_thread(consul_server.heal)
        await _until_registered(case)
    await _until_registered(case, is_there=False)
