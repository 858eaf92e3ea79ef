"""The native chat: one message in, one answer out, whole or in pieces."""

import asyncio
from dataclasses import replace

import pytest

from chassis.errors import Unavailable
from services.gateway.apis.exchange import ClientGone
from tests.unit.gateway.apis.world import USER, WHO, World

CHAT, STREAM = "/api/v1/chat", "/api/v1/chat/stream"


async def test_the_example_of_the_document(world: World):
    """Request and answer as printed."""
    body = {"message": "Hello, how are you?", "model": "echo", "temperature": 0.7, "max_tokens": 2048}
    answer = await world.ask("POST", CHAT, body)
    assert answer.status == 200
    assert answer.json == {"response": "Hello there", "model": "echo", "tokens_used": 5}


async def test_the_defaults_of_the_document(world: World):
    """The model that is configured, 0.7, 2048; and who asks."""
    await world.ask("POST", CHAT, {"message": "Hi", "model": None})
    request = world.llm.requests[0]
    assert (request.model, request.temperature, request.max_tokens) == ("", 0.7, 2048)
    assert (request.user_id, request.messages[0].role) == (USER.user_id, "user")


async def test_zero_degrees_are_not_the_default(world: World):
    """0 is a temperature."""
    await world.ask("POST", CHAT, {"message": "Hi", "temperature": 0})
    assert world.llm.requests[0].HasField("temperature")
    assert world.llm.requests[0].temperature == 0


async def test_a_stream_is_as_the_document_prints_it(world: World):
    """Tokens, then the end with the tokens used."""
    answer = await world.ask("POST", STREAM, {"message": "Tell me a story"})
    assert answer.events == [
        {"token": "Hello", "finish": False},
        {"token": " there", "finish": False},
        {"finish": True, "tokens_used": 5},
    ]


async def test_a_stream_that_fails_says_so_at_its_end(world: World):
    """With the code, and without the count of a whole answer."""
    world.llm.failure, world.llm.fail_after = Unavailable("Away", code="PROVIDER_ERROR"), 1
    answer = await world.ask("POST", STREAM, {"message": "Hi"})
    assert answer.events[-1] == {"finish": True, "error": {"code": "PROVIDER_ERROR", "message": "Away"}}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"message": ""}, 400, "VALIDATION_ERROR"),
        ({"message": " \n"}, 400, "VALIDATION_ERROR"),
        ({"message": "Hi", "model": "unknown"}, 400, "MODEL_NOT_FOUND"),
        ({"message": "Hi", "temperature": 1.1}, 400, "VALIDATION_ERROR"),
        ({"message": "Hi", "max_tokens": 0}, 400, "VALIDATION_ERROR"),
        ({}, 422, "VALIDATION_ERROR"),
        ({"message": 5}, 422, "VALIDATION_ERROR"),
        ({"message": "Hi", "max_tokens": "many"}, 422, "VALIDATION_ERROR"),
        ([], 422, "VALIDATION_ERROR"),
        (b"{", 400, "INVALID_JSON"),
        (b"", 400, "INVALID_JSON"),
        (b'{"message": "\\u0000"}', 400, "INVALID_JSON"),
        (b'{"message": "\\ud800"}', 400, "INVALID_JSON"),
        (b'{"message": "\xff"}', 400, "INVALID_JSON"),
        (b'{"message": NaN}', 400, "INVALID_JSON"),
        (b'{"message": "x", "y": ' + b"[" * 200 + b"]" * 200 + b"}", 400, "INVALID_JSON"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, STREAM])
async def test_bad_input_is_refused(world: World, path, body, status, code):
    """400 for what is malformed or refused, 422 for what is missing or of the wrong type."""
    answer = await world.ask("POST", path, body)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


async def test_a_provider_that_is_down_is_500_then_503(world: World):
    """As the document has it: 500 while it is tried, 503 with Retry-After while it is not."""
    world.llm.failure = Unavailable("Model provider away", code="OLLAMA_ERROR")
    assert (await world.ask("POST", CHAT, {"message": "Hi"})).status == 500
    world.llm.failure = Unavailable(code="CIRCUIT_OPEN", retry_after_seconds=12.3)
    answer = await world.ask("POST", CHAT, {"message": "Hi"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "13")
    assert answer.json["error"]["code"] == "CIRCUIT_OPEN"


@pytest.mark.parametrize("path", [CHAT, STREAM])
async def test_a_client_that_leaves_stops_the_model(world: World, path):
    """Nobody pays for words that nobody reads."""
    world.llm.hang = True
    gone = asyncio.Event()
    gone.set()
    with pytest.raises(ClientGone):
        await world.ask("POST", path, {"message": "Hi"}, gone=gone)
    assert world.llm.stopped.is_set()


async def test_a_key_without_the_scope_is_forbidden(world: World, monkeypatch: pytest.MonkeyPatch):
    """A key for tasks does not chat."""
    monkeypatch.setitem(WHO, "narrow", replace(USER, scopes=frozenset({"tasks"})))
    answer = await world.ask("POST", CHAT, {"message": "Hi"}, who="narrow")
    assert (answer.status, answer.json["error"]["code"]) == (403, "PERMISSION_DENIED")
