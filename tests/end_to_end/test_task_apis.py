"""Tasks, workers from outside and live feeds over real processes, as the documents of the APIs print them."""

import asyncio
import json
import secrets
from typing import Any

import aiohttp
import pytest

from tests.support.client import Client
from tests.support.worker import outside_worker

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]

SENTIMENT = {
    "type": "sentiment_analysis",
    "data": {
        "text": "Great customer service experience!",
        "channel": "chat",
        "customer_id": "CUST123",
        "priority": "high",
    },
}
DEVELOPMENT = {
    "title": "Implement new feature",
    "description": "Detailed task description",
    "priority": "medium",
    "task_type": "feature",
    "estimated_hours": 4.0,
}
WORKERS = {
    "total_workers": 3,
    "active_workers": 2,
    "workers": [{"id": 0, "status": "active", "tasks_processed": 150, "uptime": "2h 30m", "current_load": 0.75}],
}


@pytest.fixture
def kind() -> str:
    """A kind of work that no other test knows."""
    return f"echo-{secrets.token_hex(4)}"


def fits(shown: Any, example: Any) -> bool:
    """Whether every field of the example is there, with a value of its type."""
    if isinstance(example, dict):
        return all(name in shown and fits(shown[name], value) for name, value in example.items())
    if isinstance(example, list):
        return all(fits(each, example[0]) for each in shown)
    return type(shown) is type(example)


async def test_the_customer_service_example(user: Client):
    """Submitted, done, and seen among the workers' and the channels' figures."""
    accepted = await user.accepted("/task", SENTIMENT)
    example = {"task_id": "task_1234567890", "status": "accepted", "queue_position": 1, "estimated_process_time": "2s"}
    assert accepted.status == 202
    assert fits(accepted.body, example), accepted
    task = await user.until(f"/task/{accepted.body['task_id']}", lambda body: body["status"] == "completed")
    assert fits(task.body["result"], {"sentiment": "positive", "confidence": 0.95, "processing_time": "1.5s"})
    workers = await user.get("/workers")
    assert fits(workers.body, WORKERS), workers
    channels = await user.until("/channels", lambda body: "chat" in body["channels"])
    assert fits(channels.body["channels"]["chat"], {"status": "active", "current_load": 45, "response_time": "2s"})


async def test_a_development_task_is_done_by_an_agent(user: Client):
    """Pending at first; its result is an agent's answer."""
    made = await user.accepted("/tasks", DEVELOPMENT)
    assert (made.status, made.body["status"], made.body["type"]) == (200, "pending", "feature"), made
    ended = await user.finished(made.body["id"])
    assert ended["status"] == "completed", ended
    listed = (await user.get("/tasks?limit=5")).body
    assert [(task["title"], task["status"]) for task in listed["tasks"]] == [("Implement new feature", "completed")]
    result = (await user.get(f"/api/v1/tasks/{made.body['id']}/result")).body["result"]
    assert result["output"]
    assert result["agent_id"]


async def test_sockets_tell_each_task_in_order_and_without_gaps(user: Client):
    """Both addresses alike; who comes back is told the rest of what it knows."""
    headers = {"Authorization": f"Bearer {user.token}"}
    heard: dict[str, list[int]] = {"/tasks/updates": [], "/ws/tasks": []}

    async def listen(path: str, socket: Any, task_id: str) -> None:
        async for message in socket:
            frame = json.loads(message.data)
            if frame["task_id"] == task_id:
                heard[path].append(frame["sequence"])
            if frame["task_id"] == task_id and frame["type"] == "succeeded":
                return

    session = user._session
    async with (
        session.ws_connect(f"{user.url}/tasks/updates", headers=headers) as one,
        session.ws_connect(f"{user.url}/ws/tasks", headers=headers) as two,
    ):
        task = await user.submit("automation", {"action": "delay", "seconds": 1})
        async with asyncio.timeout(60):
            await asyncio.gather(listen("/tasks/updates", one, task), listen("/ws/tasks", two, task))
    assert heard["/tasks/updates"] == heard["/ws/tasks"] == list(range(1, len(heard["/ws/tasks"]) + 1))
    async with session.ws_connect(f"{user.url}/ws/tasks", headers=headers) as back:
        await back.send_json({"type": "subscribe", "task_id": task, "since": 2})
        again: dict[str, list[int]] = {"/ws/tasks": []}
        whole, heard["/ws/tasks"] = heard["/ws/tasks"], again["/ws/tasks"]
        async with asyncio.timeout(60):
            await listen("/ws/tasks", back, task)
    assert again["/ws/tasks"] == whole[2:]


async def streamed(user: Client, task: str, **headers: str) -> list[int]:
    """The ids of a task's event stream, to its end."""
    options = {"Authorization": f"Bearer {user.token}", "Accept": "text/event-stream", **headers}
    async with user._session.get(f"{user.url}/api/v1/tasks/{task}/events", headers=options) as response:
        assert response.content_type == "text/event-stream"
        text = await response.text()
    return [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]


async def test_the_event_stream_of_a_task(user: Client):
    """Its past, its present, its end; a browser that comes back says what it has seen."""
    task = await user.submit("automation", {"action": "delay", "seconds": 1})
    sequences = await streamed(user, task)
    listed = (await user.get(f"/api/v1/tasks/{task}/events")).body["events"]
    assert sequences == [event["sequence"] for event in listed] == list(range(1, len(listed) + 1))
    assert await streamed(user, task, **{"Last-Event-ID": "2"}) == sequences[2:]


async def test_a_worker_from_outside_works(admin: Client, user: Client, kind: str):
    """Announced, assigned, told to stop, acknowledged; what it does is a task like any other."""
    async with outside_worker(admin, "31") as worker:
        assert (await worker.register(kind, slots=2))["resumed"] is False
        task = await user.submit(kind, {"x": 1})
        assigned = await worker.work()
        assert (assigned["task_id"], assigned["task_type"], assigned["data"]) == (task, kind, {"x": 1})
        await worker.answer(assigned, {"y": 2})
        assert (await user.get(f"/api/v1/tasks/{task}/result")).body["result"] == {"y": 2}
        stopped = await user.submit(kind, {})
        assigned = await worker.work()
        assert (await user.call("DELETE", f"/api/v1/tasks/{stopped}")).status == 204
        assert (await worker.hear("cancel"))["task_id"] == stopped
        await worker.say("cancelled", task_id=stopped, attempt=assigned["attempt"])
        await worker.hear("acknowledged")
        assert (await user.finished(stopped))["status"] == "cancelled"
        # Its figures are a second old at most, and the machine may be slower than that.
        await admin.until(
            "/workers", lambda body: [one["external"] for one in body["workers"] if one["name"] == "31"] == [True]
        )


async def test_a_worker_whose_socket_breaks_comes_back_to_its_task(admin: Client, user: Client, kind: str):
    """The same session, the same attempt."""
    async with outside_worker(admin, "32") as worker:
        session_id = (await worker.register(kind))["session_id"]
        task = await user.submit(kind, {})
        assigned = await worker.work()
        async with outside_worker(admin, "32") as back:
            worker.drop()
            registered = await back.register(kind, session_id=session_id)
            if registered["resumed"]:
                assert registered["session_id"] == session_id
                assert registered["held"] == [{"task_id": task, "attempt": assigned["attempt"]}]
            else:
                # The machine was slower than the lease: then the task is given anew.
                assigned = await back.work(40)
            await back.answer(assigned, "done")
        assert (await user.finished(task))["attempt"] == assigned["attempt"]


async def test_the_task_of_a_worker_that_is_gone_is_done_by_another(admin: Client, user: Client, kind: str):
    """As soon as its short lease is over; what the first one says later has no effect."""
    async with outside_worker(admin, "33") as gone, outside_worker(admin, "34", f"kinds={kind}") as bare:
        await gone.register(kind)
        task = await user.submit(kind, {})
        first = await asyncio.wait_for(_either(gone, bare), 20)
        holder, other = (gone, bare) if first is gone else (bare, gone)
        holder.drop()
        again = await other.hear("assign")
        assert (again["task_id"], again["attempt"]) == (task, 2)
        await other.say(task_id=task, attempt=2, type="result", result="second")
        await other.hear("acknowledged")
        assert (await user.get(f"/api/v1/tasks/{task}/result")).body["result"] == "second"


async def _either(one: Any, two: Any) -> Any:
    """The worker that is assigned the task."""
    waiting = {asyncio.ensure_future(each.hear("assign")): each for each in (one, two)}
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    await asyncio.wait(pending)
    return waiting[done.pop()]


async def test_a_faulty_worker_is_let_go_and_nothing_is_stored(admin: Client, user: Client, kind: str):
    """With a reason, and its session with it."""
    async with outside_worker(admin, "35") as worker:
        await worker.register(kind)
        foreign = await user.submit("automation", {"action": "delay", "seconds": 600})
        await worker.say("result", task_id=foreign, attempt=1, result="stolen")
        assert (await worker.hear("error"))["error"]["code"] == "STALE_ATTEMPT"
        assert await worker.until_closed() == 4409
    # It has not ended, or it could not be cancelled any more.
    await user.call("DELETE", f"/api/v1/tasks/{foreign}")
    assert (await user.finished(foreign))["status"] == "cancelled"


async def test_users_are_no_workers(user: Client):
    """The handshake is refused with its status."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with outside_worker(user, "36"):
            pass
    assert refusal.value.status == 403


async def test_an_unknown_kind_names_the_known_ones(user: Client):
    """In every dialect that takes kinds."""
    for path, body in (("/api/v1/tasks", {"task_type": "levitate"}), ("/task", {"type": "levitate"})):
        answer = await user.post(path, body)
        assert answer.status == 400, answer
        assert "sentiment_analysis" in answer.body["error"]["details"]["known"]
