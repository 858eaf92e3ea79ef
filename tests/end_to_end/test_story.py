"""The story of the README over real processes: from the first registration to one trace over everything."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.support.client import Client, client
from tests.support.mesh import Mesh
from tests.support.otlp import Receiver

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]


async def make_agents(admin: Client, count: int) -> list[str]:
    """Agents as the seed shows them: created inactive, then set active."""
    ids = []
    for _ in range(count):
        body = {"name": f"Bot-{secrets.token_hex(4)}", "role": "Analysis", "description": "Analyses what it is given"}
        created = await admin.post("/api/agents", body)
        assert (created.status, created.body["status"]) == (201, "inactive"), created
        changed = await admin.call("PUT", f"/api/agents/{created.body['id']}", {"status": "active"})
        assert (changed.status, changed.body["status"]) == (200, "active"), changed
        ids.append(created.body["id"])
    return ids


async def test_an_account_and_a_key(user: Client):
    """A registered user is who the token says, and an API key works in its place."""
    made = await user.post("/api/v1/keys", {"name": "laptop"})
    assert made.status == 201, made
    user.token = made.body["key"]
    me = await user.get("/api/auth/me")
    assert me.body["username"] == user.user["username"]


async def test_chat(user: Client):
    """The native chat answers with the seed's fields."""
    answer = await user.post("/api/v1/chat", {"message": "What is 2+2?"})
    assert answer.status == 200, answer
    assert set(answer.body) >= {"response", "model", "tokens_used"}
    assert answer.body["tokens_used"] > 0


async def test_the_openai_package(user: Client):
    """The official SDK works with only its address and key changed, streaming and not."""
    sdk = openai.AsyncOpenAI(base_url=f"{user.url}/v1", api_key=user.token)
    messages: Any = [{"role": "user", "content": "Say something"}]
    whole = await sdk.chat.completions.create(model="echo", messages=messages)
    stream = await sdk.chat.completions.create(
        model="echo", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert "echo" in [model.id async for model in sdk.models.list()]
    with pytest.raises(openai.NotFoundError):
        await sdk.chat.completions.create(model="no-such-model", messages=messages)
    await sdk.close()


@pytest.mark.parametrize("parallel", [True, False])
async def test_an_execution_is_watched_live(admin: Client, parallel: bool):
    """Two agents run, the socket tells it in order, and the log agrees."""
    agents = await make_agents(admin, 2)
    async with admin.events() as frames:
        body = {"agent_ids": agents, "parallel": parallel, "timeout_seconds": 60}
        started = await admin.post("/api/execute", body)
        assert (started.status, started.body["agent_count"]) == (200, 2), started
        execution = started.body["execution_id"]
        async with asyncio.timeout(60):
            told = [frame async for frame in _of(execution, frames)]
    kinds = [frame["type"] for frame in told]
    assert kinds == ["execution_started", "agent_completed", "agent_completed", "execution_completed"]
    assert {frame["data"]["agent_id"] for frame in told[1:3]} == set(agents)
    assert told[3]["data"] | {"success_rate": 100.0} == told[3]["data"]
    for agent in agents:
        log = await admin.get(f"/api/executions?agent_id={agent}")
        assert [(run["agent_id"], run["status"]) for run in log.body] == [(agent, "success")]
        figures = (await admin.get(f"/api/agents/{agent}")).body
        assert (figures["total_executions"], figures["success_rate"]) == (1, 100.0)


async def _of(execution: str, frames: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    async for frame in frames:
        if frame["data"].get("execution_id") == execution:
            yield frame
            if frame["type"] == "execution_completed":
                return


async def test_a_task(user: Client):
    """Submitted, polled, done, and its result read."""
    task = await user.submit("sentiment_analysis", {"text": "Great customer service experience!", "channel": "chat"})
    assert (await user.finished(task))["status"] == "completed"
    result = (await user.get(f"/api/v1/tasks/{task}/result")).body["result"]
    assert result["sentiment"] == "positive"


async def test_an_idempotency_key_makes_one_task(user: Client):
    """The same request twice is one task; another request under the key is refused."""
    key = {"headers": {"Idempotency-Key": secrets.token_hex(8)}}
    first = await user.submit("automation", {"action": "test"}, **key)
    assert await user.submit("automation", {"action": "test"}, **key) == first
    other = await user.post("/api/v1/tasks", {"task_type": "automation", "payload": {"action": "delay"}}, **key)
    assert other.status == 422, other


async def chat_past_the_limit(user: Client) -> int:
    """Ten chats a minute pass; the seconds after which the next one may come."""
    answers = [await user.post("/api/v1/chat", {"message": "Hi"}) for _ in range(11)]
    assert [answer.status for answer in answers] == [200] * 10 + [429]
    denied = answers[-1]
    assert denied.headers["x-ratelimit-remaining"] == "0"
    return int(denied.headers["retry-after"])


async def test_past_the_limit(user: Client):
    """The eleventh chat of a minute is told when to come back."""
    assert 1 <= await chat_past_the_limit(user) <= 60


@pytest.mark.long
async def test_back_at_the_told_time(user: Client):
    """Who comes back then passes."""
    await asyncio.sleep(await chat_past_the_limit(user))
    assert (await user.post("/api/v1/chat", {"message": "Hi"})).status == 200


async def test_one_trace_covers_everything(admin: Client, receiver: Receiver):
    """The trace a client begins is found in every service its request touches, the worker behind the broker too."""
    [agent] = await make_agents(admin, 1)
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    await admin.post("/api/execute", {"agent_ids": [agent], "timeout_seconds": 60}, headers=headers)
    task = await admin.submit("sentiment_analysis", {"text": "fine"}, headers=headers)
    await admin.finished(task)
    await admin.until(f"/api/executions?agent_id={agent}", lambda runs: runs and runs[0]["status"] == "success")
    wanted = {"gateway", "ratelimit", "agents", "tasks", "tasks-worker", "llm"}
    async with asyncio.timeout(60):
        while not receiver.services(trace) >= wanted:
            await asyncio.sleep(0.2)


async def test_everything_is_registered_in_consul(mesh: Mesh):
    """All five services are there, and their checks pass."""
    async with client(mesh.env["CONSUL_URL"]) as consul:
        for service in ("gateway", "agents", "tasks", "llm", "ratelimit"):
            path = f"/v1/health/service/{service}?passing=true"
            found = await consul.until(path, bool)
            assert found.body, service
