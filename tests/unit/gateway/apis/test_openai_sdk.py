"""The official OpenAI package against the gateway, over no socket: what it sends is taken, what it gets it knows."""

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from chassis.errors import Exhausted, Unavailable
from tests.unit.gateway.apis.world import World

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def client(world: World, key: str = "user", *, retries: int = 0) -> openai.AsyncOpenAI:
    transport = httpx2.ASGITransport(app=world.app)
    http = openai.DefaultAsyncHttpxClient(transport=transport)
    return openai.AsyncOpenAI(base_url="http://gateway/v1", api_key=key, http_client=http, max_retries=retries)


async def test_a_whole_answer(world: World):
    """Typed, with its usage."""
    answer = await client(world).chat.completions.create(model="echo", messages=MESSAGES, n=2, seed=1, stop=["x"])
    assert [choice.message.content for choice in answer.choices] == ["Hello there", "Hello there"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5


async def test_a_streamed_answer(world: World):
    """Piece by piece, with the usage at its end."""
    stream = await client(world).chat.completions.create(
        model="echo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello there"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


async def test_a_stream_that_breaks_raises(world: World):
    """It must not look like a short answer."""
    world.llm.failure, world.llm.fail_after = Unavailable("Away", code="PROVIDER_ERROR"), 1
    stream = await client(world).chat.completions.create(model="echo", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="Away"):
        async for _ in stream:
            pass


async def test_its_errors_are_typed(world: World):
    """Each status becomes the exception that callers catch."""
    with pytest.raises(openai.AuthenticationError):
        await client(world, "forged").models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        await client(world).chat.completions.create(model="gpt-99", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client(world).chat.completions.create(model="echo", messages=[])
    assert bad.value.param == "messages"
    world.llm.failure = Exhausted(retry_after_seconds=60)
    with pytest.raises(openai.RateLimitError) as limited:
        await client(world).chat.completions.create(model="echo", messages=MESSAGES)
    assert limited.value.response.headers["retry-after"] == "60"


async def test_models_are_listed_and_retrieved(world: World):
    """Also those whose names have a slash."""
    assert [model.id async for model in client(world).models.list()] == ["echo", "org/tinyllama"]
    assert (await client(world).models.retrieve("echo")).owned_by == "echo"
