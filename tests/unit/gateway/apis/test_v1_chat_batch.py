"""Many messages in one request: answered in their order, each on its own, and as a task when they are many."""

import orjson
import pytest

from chassis.errors import Conflict, Unavailable
from tests.unit.gateway.apis.world import USER, World

BATCH = "/api/v1/chat/batch"


def messages(count: int) -> list[dict[str, str]]:
    return [{"message": f"Hello {number}"} for number in range(count)]


async def test_a_few_are_answered_at_once_and_in_order(world: World):
    """List in, list out."""
    answer = await world.ask("POST", BATCH, [*messages(2), {"message": "Hi", "model": "echo"}])
    assert answer.status == 200
    assert answer.json == [{"response": "Hello there", "model": "echo", "tokens_used": 5}] * 3
    assert sorted(request.messages[0].content for request in world.llm.requests) == ["Hello 0", "Hello 1", "Hi"]


async def test_one_that_fails_fails_no_other(world: World):
    """Its place in the answer tells why."""
    answer = await world.ask("POST", BATCH, [{"message": "Hi"}, {"message": "Hi", "model": "unknown"}])
    assert answer.status == 200
    assert answer.json[0]["response"] == "Hello there"
    assert answer.json[1] == {"error": {"code": "MODEL_NOT_FOUND", "message": "Requested model not available"}}


async def test_a_provider_that_is_away_is_the_error_of_each(world: World):
    """The request as a whole was right."""
    world.llm.failure = Unavailable("Away", code="OLLAMA_ERROR")
    answer = await world.ask("POST", BATCH, messages(2))
    assert (answer.status, answer.json) == (200, [{"error": {"code": "OLLAMA_ERROR", "message": "Away"}}] * 2)


async def test_more_than_twenty_become_a_task(world: World):
    """Accepted under the caller's name, with all that was asked and the defaults."""
    answer = await world.ask("POST", BATCH, messages(21))
    assert (answer.status, answer.json["status"]) == (202, "queued")
    (submitted,) = world.tasks.requests
    assert (submitted.kind, submitted.owner_id) == ("llm.batch", USER.user_id)
    items = orjson.loads(submitted.payload)["items"]
    assert len(items) == 21
    assert items[20] == {"message": "Hello 20", "model": "", "temperature": 0.7, "max_tokens": 2048}
    assert not world.llm.requests


async def test_a_key_makes_one_key_of_each_item(world: World):
    """So that a repeated batch replays all its answers, and no item takes the answer of another."""
    headers = {"Idempotency-Key": "k" * 255}
    await world.ask("POST", BATCH, messages(3), headers=headers)
    first = {request.messages[0].content: request.idempotency_key for request in world.llm.requests}
    await world.ask("POST", BATCH, messages(3), headers=headers)
    again = {request.messages[0].content: request.idempotency_key for request in world.llm.requests[3:]}
    assert first == again
    assert len(set(first.values())) == 3


async def test_a_key_of_another_batch_is_refused_as_a_whole(world: World):
    """422, as everywhere."""
    world.llm.failure = Conflict("Used for another request", code="IDEMPOTENCY_MISMATCH")
    answer = await world.ask("POST", BATCH, messages(2), headers={"Idempotency-Key": "k"})
    assert (answer.status, answer.json["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ([], 400, "body"),
        ({"message": "Hi"}, 422, "body"),
        ([{"message": "Hi"}, {"message": " "}], 400, "1.message"),
        ([{"message": "Hi"}, {}], 422, "1.message"),
        ([{"message": "Hi", "temperature": 2}], 400, "0.temperature"),
        (messages(501), 400, "body"),
    ],
)
async def test_bad_batches_are_refused_before_anything_is_asked(world: World, body, status, field):
    """With the item and its field."""
    answer = await world.ask("POST", BATCH, body)
    assert (answer.status, answer.json["error"]["details"]["field"]) == (status, field)
    assert not world.llm.requests
    assert not world.tasks.requests
