"""Workers from outside over two gateways and a tasks service: what becomes of their work when a gateway goes."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from chassis import migrations
from chassis.config import Postgres
from deploy.local.ports import free_port
from tests.integration.worker.processes import Mesh, Service
from tests.support.client import Client, client
from tests.support.worker import outside_worker

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.timeout(240)]

KIND = "echo"
ADMIN = ("root", "correct horse battery")


@dataclass
class Gateway:
    """A gateway's process, and its administrator."""

    process: Service
    admin: Client


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def gateways(stack: AsyncExitStack, database_url: str, amqp_url: str) -> list[Gateway]:
    """Two of them over one tasks service."""
    for service in ("tasks", "gateway"):
        await asyncio.to_thread(migrations.upgrade, service, Postgres(url=database_url))
    environment = {"DATABASE_URL": database_url, "AMQP_URL": amqp_url, "MESH_DISCOVERY": "static"}
    environment |= {"JWT_SECRET": secrets.token_hex(32), "MESH_DRAIN_SECONDS": "4"}
    environment |= {"ADMIN_USERNAME": ADMIN[0], "ADMIN_PASSWORD": ADMIN[1]}
    mesh = Mesh(stack, environment)
    await mesh.add_tasks()
    ports = [free_port(), free_port()]
    processes = [await mesh.add("services.gateway", MESH_HTTP_PORT=str(port)) for port in ports]
    clients = [await stack.enter_async_context(client(f"http://127.0.0.1:{port}")) for port in ports]
    for made in clients:
        await until_ready(made)
        await made.login(*ADMIN)
    return [Gateway(process, made) for process, made in zip(processes, clients, strict=True)]


async def until_ready(asking: Client) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                if (await asking.get("/readyz")).status == 200:
                    return
            except OSError:
                # It does not listen yet; how long it may take is bounded above.
                pass
            await asyncio.sleep(0.1)


async def test_a_gateway_that_ends_hands_back(gateways: list[Gateway]):
    """Its workers are told, and their tasks go to others as if they had never been tried."""
    leaving, staying = gateways
    async with outside_worker(leaving.admin, "1") as worker:
        await worker.register(KIND)
        task = await staying.admin.submit(KIND, {})
        first = await worker.work()
        leaving.process.send(signal.SIGTERM)
        assert (await worker.hear("drain"))["seconds"] > 0
        assert (await worker.hear("revoke"))["task_id"] == task
        assert await worker.until_closed() == 1001
    async with outside_worker(staying.admin, "2") as other:
        await other.register(KIND)
        again = await other.work()
        assert (again["task_id"], again["attempt"]) == (task, first["attempt"] + 1)
        await other.answer(again, "done")
    events = (await staying.admin.get(f"/api/v1/tasks/{task}/events")).body["events"]
    assert [event["type"] for event in events] == ["queued", "started", "queued", "started", "succeeded"]
    assert events[2]["data"]["reason"] == "HANDED_BACK"
    assert await leaving.process.wait() == 0


async def test_a_gateway_that_is_killed_loses_nothing(gateways: list[Gateway]):
    """Its worker comes back by another; the task is its own still, or somebody's anew, and ends once."""
    dying, staying = gateways
    async with outside_worker(dying.admin, "1") as worker:
        session_id = (await worker.register(KIND))["session_id"]
        task = await staying.admin.submit(KIND, {})
        assigned = await worker.work()
        async with outside_worker(staying.admin, "1") as back:
            dying.process.send(signal.SIGKILL)
            registered = await back.register(KIND, session_id=session_id)
            if not registered["resumed"]:
                # The machine was slower than the lease: then it is given anew, and the old attempt has no effect.
                assigned = await back.work(40)
            await back.answer(assigned, "done")
    events = (await staying.admin.get(f"/api/v1/tasks/{task}/events")).body["events"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events].count("succeeded") == 1


@pytest.mark.long
async def test_a_stopped_worker_is_fenced(gateways: list[Gateway]):
    """It answers no pings for longer than its lease; what it says afterwards has no effect."""
    one, two = gateways
    async with outside_worker(one.admin, "1") as stopped:
        await stopped.register(KIND)
        task = await two.admin.submit(KIND, {})
        first = await stopped.work()
        # Nobody reads its socket from here on, so nobody answers its pings.
        began = time.monotonic()
        async with outside_worker(two.admin, "2") as other:
            await other.register(KIND)
            again = await other.hear("assign", 40)
            waited = time.monotonic() - began
            assert waited <= 12.0, f"the second attempt began {waited:.2f} s after the first worker stopped to read"
            assert (again["task_id"], again["attempt"]) == (task, first["attempt"] + 1)
            await other.answer(again, "second")
    assert (await two.admin.get(f"/api/v1/tasks/{task}/result")).body["result"] == "second"
