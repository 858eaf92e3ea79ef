"""The OpenAI API: bodies in, bodies out, streams."""

import asyncio
from typing import Any

import orjson
import pytest

from chassis.errors import Unavailable
from services.gateway.apis.exchange import ClientGone
from tests.unit.gateway.apis.world import USER, World

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]


def asking(**fields: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": MESSAGES} | fields


async def test_a_whole_answer(world: World):
    """Every field that the SDKs' types require."""
    answer = await world.ask("POST", PATH, asking())
    assert answer.status == 200
    assert answer.json == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "echo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "system_fingerprint": None,
    }


async def test_what_the_contract_knows_travels_in_its_fields(world: World):
    """And who asks with it, for usage."""
    await world.ask("POST", PATH, asking(temperature=0.5, top_p=1, max_completion_tokens=7, n=2, stop="x", seed=-3))
    request = world.llm.requests[0]
    assert (request.temperature, request.top_p, request.max_tokens) == (0.5, 1.0, 7)
    assert (request.choices, list(request.stop), request.seed) == (2, ["x"], -3)
    assert (request.user_id, request.options) == (USER.user_id, b"")
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief"),
        ("user", "Hello"),
    ]


async def test_what_it_does_not_know_travels_as_options(world: World):
    """Tools and response formats are the provider's affair."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    options = {"tools": tools, "response_format": {"type": "json_object"}, "user": "u-1"}
    await world.ask("POST", PATH, asking(stop=["a", "b"], **options))
    request = world.llm.requests[0]
    assert orjson.loads(request.options) == options
    assert not request.HasField("temperature")


async def test_tool_calls_and_parts_of_a_conversation_travel_as_they_are(world: World):
    """As JSON, because each provider reads them in its own way."""
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Look"}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "42", "tool_call_id": "c1", "name": "f"},
    ]
    await world.ask("POST", PATH, asking(messages=messages))
    first, second, third = world.llm.requests[0].messages
    assert orjson.loads(first.parts) == messages[0]["content"]
    assert orjson.loads(second.tool_calls) == calls
    assert (third.content, third.tool_call_id, third.name) == ("42", "c1", "f")


async def test_a_stream_has_chunks_and_an_end(world: World):
    """The role comes first, the reason last, then [DONE]; no usage unless it was asked for."""
    answer = await world.ask("POST", PATH, asking(stream=True))
    *chunks, done = answer.events
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "Hello"},
        {"content": " there"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert all("usage" not in chunk and chunk["id"] == "chatcmpl-1" for chunk in chunks)


async def test_each_piece_is_sent_when_it_comes(world: World):
    """One body message a piece, not one at the end."""
    answer = await world.ask("POST", PATH, asking(stream=True))
    assert sum(part.startswith(b"data: ") for part in answer.parts) == 4


async def test_usage_comes_last_when_it_is_asked_for(world: World):
    """In a chunk without choices; all the others say null."""
    answer = await world.ask("POST", PATH, asking(stream=True, stream_options={"include_usage": True}))
    *chunks, last, _ = answer.events
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_a_failure_before_the_first_piece_has_a_status(world: World):
    """The client gets an error, not a stream with one in it."""
    world.llm.failure = Unavailable(code="CIRCUIT_OPEN", retry_after_seconds=30)
    answer = await world.ask("POST", PATH, asking(stream=True))
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    assert answer.json["error"]["code"] == "circuit_open"


async def test_a_failure_in_the_middle_is_an_event_and_no_end(world: World):
    """A stream that broke must not look whole."""
    world.llm.failure, world.llm.fail_after = Unavailable(code="PROVIDER_ERROR"), 1
    answer = await world.ask("POST", PATH, asking(stream=True))
    assert answer.status == 200
    assert answer.events[-1]["error"]["code"] == "provider_error"
    assert "[DONE]" not in answer.events


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_model(world: World, stream: bool):
    """Whole or streamed, before the first byte."""
    world.llm.hang = True
    gone = asyncio.Event()
    gone.set()
    with pytest.raises(ClientGone):
        await world.ask("POST", PATH, asking(stream=stream), gone=gone)
    assert world.llm.stopped.is_set()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_wrong_field_is_400_and_named(world: World, fields, param):
    """In `param`, as the SDKs' exceptions show it."""
    answer = await world.ask("POST", PATH, asking(**fields))
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert world.llm.requests == []


async def test_an_unknown_model_is_not_found(world: World):
    """404 with the code that callers compare with."""
    answer = await world.ask("POST", PATH, asking(model="gpt-99"))
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")


async def test_a_key_makes_a_whole_answer_repeatable(world: World):
    """The llm service replays it; the gateway passes the key on."""
    await world.ask("POST", PATH, asking(), headers={"Idempotency-Key": '"k-1"'})
    assert world.llm.requests[0].idempotency_key == "k-1"


async def test_a_key_with_a_stream_is_refused(world: World):
    """A promise that cannot be kept is not made."""
    answer = await world.ask("POST", PATH, asking(stream=True), headers={"Idempotency-Key": "k"})
    assert answer.status == 400
    assert world.llm.requests == []


async def test_models_are_listed_and_found(world: World):
    """Names with a slash too."""
    listed = (await world.ask("GET", "/v1/models")).json
    assert [model["id"] for model in listed["data"]] == ["echo", "org/tinyllama"]
    one = (await world.ask("GET", "/v1/models/org/tinyllama")).json
    assert one == {"id": "org/tinyllama", "object": "model", "created": 0, "owned_by": "ollama"}
    missing = await world.ask("GET", "/v1/models/none")
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")
