"""Conversations as tasks count against the tokens of whoever submits them, whichever way they come."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from mesh.ratelimit.v1 import ratelimit_pb2
from mesh.tasks.v1 import tasks_pb2

from chassis.errors import Unavailable
from services.gateway.apis.special_kinds import tokens_of
from services.gateway.apis.v1.chat_batch import MOST_TASK_BYTES
from services.gateway.edge.errors import OverLimit
from services.gateway.edge.tokens import Reservation
from services.tasks.operations.checks import MOST_PAYLOAD_BYTES
from tests.unit.gateway.apis.world import USER, WHO, World

TASKS, BATCH = "/api/v1/tasks", "/api/v1/chat/batch"
# Its text with quotes has four bytes, which is one token.
CHAT = {"task_type": "llm.chat", "payload": {"message": "Hi", "max_tokens": 99}}


def reserving(world: World, most: int = 1_000_000) -> list[int]:
    """Gives requests a reservation; returns what they take."""
    asked: list[int] = []

    async def reserve(tokens: int, needed: int) -> Any:
        if needed > most:
            raise OverLimit
        asked.append(tokens)
        return ratelimit_pb2.Subject(cost=tokens), 0.0

    world.tokens = Reservation(reserve=reserve)
    return asked


def test_what_a_conversation_may_use_is_what_it_says_or_what_it_gets():
    """As the chats count; what is no conversation is refused by the worker, and counts as one."""
    told = {"message": "x" * 38, "max_tokens": 7}
    for kind, payload, tokens in (
        ("llm.chat", told, 17),
        ("llm.chat", {"messages": [{"role": "user", "content": "Hi"}]}, 8 + 2048),
        ("llm.batch", {"items": [told, told, {"message": "Hi"}]}, 17 + 17 + 2049),
        ("llm.batch", {"items": [None]}, 2049),
        ("llm.chat", ["?"], 2049),
        ("llm.chat", {"message": "Hi", "max_tokens": True}, 2049),
        ("automation", told, 0),
    ):
        assert tokens_of(tasks_pb2.SubmitRequest(kind=kind, payload=orjson.dumps(payload))) == tokens


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        (TASKS, CHAT, 100),
        (f"{TASKS}/batch", {"tasks": [CHAT, CHAT, {"task_type": "automation"}]}, 200),
        ("/task", {"type": "llm.chat", "data": CHAT["payload"]}, 100),
        (BATCH, [{"message": "Hi", "max_tokens": 99}] * 21, 2100),
    ],
)
async def test_a_conversation_counts_whichever_way_it_is_submitted(world: World, path: str, body: Any, tokens: int):
    """Reserved before it is submitted, and used as soon as it is; without tokens nothing is submitted."""
    asked = reserving(world)
    assert (await world.ask("POST", path, body)).status in {201, 202}
    assert (asked, world.tokens.used) == ([tokens], tokens)
    world.tasks.requests.clear()
    reserving(world, most=tokens - 1)
    assert (await world.ask("POST", path, body)).status == 429
    assert not world.tasks.requests


async def test_what_makes_no_task_uses_no_tokens(world: World):
    """Neither a repeated request, nor one that fails."""
    reserving(world)
    for used in (100, 0):
        await world.ask("POST", TASKS, CHAT, headers={"Idempotency-Key": "k"})
        assert world.tokens.used == used
    reserving(world)
    world.tasks.failure = Unavailable()
    assert (await world.ask("POST", TASKS, CHAT)).status == 503
    assert world.tokens.used == 0


async def test_to_requeue_a_conversation_costs_what_it_cost(world: World, monkeypatch: pytest.MonkeyPatch):
    """And needs what to submit it needs."""
    reserving(world)
    made = (await world.ask("POST", TASKS, CHAT)).json["task_id"]
    asked = reserving(world)
    assert (await world.ask("POST", f"{TASKS}/{made}/requeue")).status == 200
    assert (asked, world.tokens.used) == ([100], 100)
    monkeypatch.setitem(WHO, "user", replace(USER, scopes=frozenset({"tasks"})))
    assert (await world.ask("POST", f"{TASKS}/{made}/requeue")).status == 403


async def test_conversations_are_not_scheduled(world: World):
    """Neither a new schedule nor one that is changed submits what nobody would count."""
    schedule = {"name": "n", "cron": "0 3 * * *", "task": {"task_type": "automation"}}
    kept = (await world.ask("POST", f"{TASKS}/schedules", schedule)).json["id"]
    for method, path in (("POST", f"{TASKS}/schedules"), ("PATCH", f"{TASKS}/schedules/{kept}")):
        answer = await world.ask(method, path, schedule | {"task": CHAT})
        assert (answer.status, answer.json["error"]["code"]) == (400, "KIND_NOT_SCHEDULABLE")
    assert [each.task.kind for each in world.tasks.schedules.values()] == ["automation"]


async def test_a_schedule_of_conversations_is_not_resumed(world: World):
    """One of a time when it could still be made; it may become another kind's, and then go on."""
    schedule = {"name": "n", "cron": "0 3 * * *", "paused": True, "task": {"task_type": "automation"}}
    path = f"{TASKS}/schedules/{(await world.ask('POST', f'{TASKS}/schedules', schedule)).json['id']}"
    (kept,) = world.tasks.schedules.values()
    kept.task.kind = "llm.chat"
    for answer in (await world.ask("POST", f"{path}/resume"), await world.ask("PATCH", path, {"paused": False})):
        assert (answer.status, answer.json["error"]["code"]) == (400, "KIND_NOT_SCHEDULABLE")
    assert (await world.ask("PATCH", path, {"name": "m"})).json["paused"]
    changed = await world.ask("PATCH", path, {"paused": False, "task": schedule["task"]})
    assert (changed.status, changed.json["paused"]) == (200, False)


@pytest.mark.parametrize(("kind", "scopes"), [("model.pull", {"*"}), ("llm.chat", {"tasks"})])
async def test_no_dialect_is_a_way_around(world: World, kind: str, scopes: set[str], monkeypatch: pytest.MonkeyPatch):
    """The customer-service API asks for what the native one does."""
    monkeypatch.setitem(WHO, "user", replace(USER, scopes=frozenset(scopes)))
    assert (await world.ask("POST", "/task", {"type": kind, "data": {"model": "m"}})).status == 403
    assert not world.tasks.requests


async def test_a_batch_that_no_task_can_hold_is_refused_before_anything(world: World):
    """With the bound in words, which is that of every task's payload."""
    asked = reserving(world)
    answer = await world.ask("POST", BATCH, [{"message": "x" * 13_000}] * 21)
    assert (answer.status, answer.json["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert f"which may have {MOST_PAYLOAD_BYTES} bytes" in answer.json["error"]["message"]
    assert (asked, MOST_TASK_BYTES) == ([], MOST_PAYLOAD_BYTES)
