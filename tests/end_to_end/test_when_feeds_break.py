"""Sockets that stand while the broker dies: what was published to nobody is told all the same."""

import asyncio
import json
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.mesh import Mesh

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]

_ENDS = {"succeeded", "failed", "dead", "cancelled", "expired"}


async def heard_of(socket: Any, tasks: set[str]) -> dict[str, list[int]]:
    """The sequences that a socket is told of these tasks, until all have ended."""
    heard: dict[str, list[int]] = defaultdict(list)
    left = set(tasks)
    while left:
        message = await socket.receive()
        frame = json.loads(message.data)
        if frame["task_id"] in tasks:
            heard[frame["task_id"]].append(frame["sequence"])
            left -= {frame["task_id"]} if frame["type"] in _ENDS else set()
    return heard


async def heard_of_execution(events: AsyncIterator[dict[str, Any]], execution_id: str) -> list[str]:
    """What is told of an execution, to its end."""
    kinds = []
    async for frame in events:
        if frame["data"].get("execution_id") == execution_id:
            kinds.append(frame["type"])
        if kinds and kinds[-1] == "execution_completed":
            break
    return kinds


async def test_nothing_is_missed_while_the_broker_dies(mesh: Mesh, user: Client):
    """A task before and one in the middle of it, and an execution whose events nobody had a queue for."""
    headers = {"Authorization": f"Bearer {user.token}"}
    agents = [agent["id"] for agent in (await user.get("/api/v1/agents")).body["agents"]][:1]
    async with (
        user._session.ws_connect(f"{user.url}/ws/tasks", headers=headers) as socket,
        user.events() as events,
        asyncio.timeout(150),
    ):
        running = await user.submit("automation", {"action": "delay", "seconds": 2})
        await user.until(f"/api/v1/tasks/{running}", lambda body: body["status"] == "running")
        os.kill(mesh.pid("rabbitmq"), signal.SIGKILL)
        meanwhile = await user.submit("automation", {"action": "test"})
        execution = await user.post("/api/execute", {"agent_ids": agents})
        assert execution.status == 200, execution
        # Both are read all the time: a socket that is not read answers no pings.
        heard, kinds = await asyncio.gather(
            heard_of(socket, {running, meanwhile}),
            heard_of_execution(events, execution.body["execution_id"]),
        )
    assert kinds == ["execution_started", "agent_completed", "execution_completed"]
    for task in (running, meanwhile):
        told = (await user.get(f"/api/v1/tasks/{task}/events")).body["events"]
        assert heard[task] == [event["sequence"] for event in told]
