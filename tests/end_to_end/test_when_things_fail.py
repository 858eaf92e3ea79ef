"""The same mesh while parts of it are away: nothing accepted is lost, nothing takes effect twice, calls go on."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.client import Client
from tests.support.mesh import Mesh

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]


@contextmanager
def stopped(mesh: Mesh, name: str) -> Iterator[None]:
    """A process that neither answers nor ends: the hardest way of being away."""
    pid = mesh.pid(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def started(user: Client, task: str) -> None:
    await user.until(f"/api/v1/tasks/{task}", lambda body: body["status"] == "running")


async def test_a_killed_worker_loses_nothing(mesh: Mesh, user: Client):
    """A task whose worker dies half-way is done by the next one, and ends once."""
    task = await user.submit("automation", {"action": "delay", "seconds": 3})
    await started(user, task)
    os.kill(mesh.pid("tasks-worker-1"), signal.SIGKILL)
    ended = await user.finished(task, 60)
    assert ended["status"] == "completed", ended
    events = (await user.get(f"/api/v1/tasks/{task}/events")).body["events"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events].count("succeeded") == 1


async def test_redis_away(mesh: Mesh, user: Client):
    """Requests go on, and the answer says that limits come from memory."""
    with stopped(mesh, "redis"):
        answers = [await user.get("/api/v1/models") for _ in range(20)]
    assert {answer.status for answer in answers} == {200}
    assert answers[-1].headers["x-ratelimit-degraded"] == "true"
    async with asyncio.timeout(30):
        while "x-ratelimit-degraded" in (await user.get("/api/v1/models")).headers:
            await asyncio.sleep(0.5)


async def test_rabbitmq_away(mesh: Mesh, user: Client):
    """Tasks are accepted while the broker is away: what finds a slot is done meanwhile, the rest when it is back."""
    work = {"task_type": "automation", "payload": {"action": "test"}}
    with stopped(mesh, "rabbitmq"):
        first = await user.submit("automation", {"action": "test"})
        second = (await user.accepted("/api/v1/tasks", {**work, "depends_on": [first]})).body["task_id"]
        await asyncio.sleep(1)
        assert (await user.get(f"/api/v1/tasks/{second}")).body["status"] in ("scheduled", "queued")
    for task in (first, second):
        assert (await user.finished(task, 60))["status"] == "completed"


async def test_rabbitmq_killed(mesh: Mesh, user: Client):
    """The broker dies and comes back; what was accepted meanwhile is done."""
    os.kill(mesh.pid("rabbitmq"), signal.SIGKILL)
    task = await user.submit("automation", {"action": "test"})
    assert (await user.finished(task, 90))["status"] == "completed"


async def test_consul_away(mesh: Mesh, user: Client):
    """Everyone keeps the last known addresses."""
    with stopped(mesh, "consul"):
        await asyncio.sleep(2)
        assert (await user.post("/api/v1/chat", {"message": "Hi"})).status == 200
        task = await user.submit("automation", {"action": "test"})
        assert (await user.finished(task))["status"] == "completed"


async def test_postgres_away(mesh: Mesh, user: Client):
    """A warm credential still chats; what needs rows says when to come back; then all is well again."""
    assert (await user.post("/api/v1/chat", {"message": "Hi"})).status == 200
    os.kill(mesh.pid("postgres"), signal.SIGKILL)
    assert (await user.post("/api/v1/chat", {"message": "Hi"})).status == 200
    async with asyncio.timeout(60):
        while (answer := await user.post("/api/v1/tasks", {"task_type": "automation", "payload": {}})).status != 201:
            assert (answer.status, "retry-after" in answer.headers) == (503, True), answer
            await asyncio.sleep(1)


@pytest.mark.parametrize("service", ["ratelimit", "llm", "tasks", "agents"])
async def test_a_killed_service_comes_back(mesh: Mesh, user: Client, service: str):
    """Its supervisor starts it again and the others find it without help."""
    os.kill(mesh.pid(service), signal.SIGKILL)
    async with asyncio.timeout(60):
        while (await user.post("/api/v1/chat", {"message": "Hi"})).status not in (200, 429):
            await asyncio.sleep(0.5)
        task = await user.until("/api/v1/tasks", lambda _: True)
    assert task.status == 200
