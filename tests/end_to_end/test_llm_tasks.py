"""Conversations as durable tasks, over real processes."""

import asyncio
from typing import Any

import pytest

from tests.support.client import Client, client
from tests.support.mesh import Mesh

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(120)]


async def result_of(user: Client, task_id: str) -> dict[str, Any]:
    """What came of a task, once it has ended."""
    async with asyncio.timeout(60):
        while (answer := await user.get(f"/api/v1/tasks/{task_id}/result")).body["completed_at"] is None:
            await asyncio.sleep(0.2)
    found: dict[str, Any] = answer.body
    return found


async def test_a_few_messages_are_answered_and_many_become_a_task(mesh: Mesh):
    """The same answers, in the same order, either way."""
    messages = [{"message": f"Hello {number}", "model": "echo"} for number in range(21)]
    async with client(mesh.url) as user:
        await user.sign_up()
        few = await user.post("/api/v1/chat/batch", messages[:3])
        many = await user.accepted("/api/v1/chat/batch", messages)
        assert (few.status, many.status) == (200, 202)
        done = await result_of(user, many.body["task_id"])
    assert done["status"] == "completed"
    assert ["Hello" in item["response"] for item in done["result"]["items"]] == [True] * 21
    said = [{name: item[name] for name in ("response", "model", "tokens_used")} for item in done["result"]["items"]]
    assert said[:3] == few.body


async def test_a_conversation_is_a_task_like_any_other(mesh: Mesh):
    """With a system prompt; what the model refuses ends the task with its code."""
    turns = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    async with client(mesh.url) as user:
        await user.sign_up()
        ids = []
        for payload in ({"messages": turns, "model": "echo"}, {"messages": turns, "model": "none"}):
            submitted = await user.accepted("/api/v1/tasks", {"task_type": "llm.chat", "payload": payload})
            ids.append(submitted.body["task_id"])
        good, bad = [await result_of(user, task_id) for task_id in ids]
    assert (good["status"], good["result"]["model"]) == ("completed", "echo")
    assert (bad["status"], bad["error"]["code"]) == ("failed", "MODEL_NOT_FOUND")
