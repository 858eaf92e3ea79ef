"""What both chat APIs know of the llm service: how it streams answers, and how many tokens a request may use."""

from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import cast

import orjson
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc

from chassis.errors import Internal, Invalid
from services.gateway.edge.tokens import Reservation

# Tokens that an answer may have where its request does not say: the native API promises a bound, OpenAI's leaves it to
# the model, of which this is a fair guess.
V1_ANSWER_TOKENS = 2048
OPENAI_ANSWER_TOKENS = 1024
_BYTES_A_TOKEN = 4
# What a picture or a sound counts as, however many bytes it has.
_MEDIA_TOKENS = 1024


def prompt_tokens(request: llm_pb2.ChatRequest) -> int:
    """About how many tokens a provider will read: a token is some four bytes of text."""
    size = len(request.options)
    media = 0
    for message in request.messages:
        size += message.ByteSize()
        if message.parts:
            others = [part for part in orjson.loads(message.parts) if part.get("type") != "text"]
            size -= sum(len(orjson.dumps(part)) for part in others)
            media += len(others)
    return max(1, size // _BYTES_A_TOKEN + media * _MEDIA_TOKENS)


def text_tokens(size_bytes: int) -> int:
    """The same of a text."""
    return max(1, size_bytes // _BYTES_A_TOKEN)


async def reserve(request: llm_pb2.ChatRequest, tokens: Reservation | None) -> None:
    """Sees to it that so many tokens are reserved as a request says it may use. Raises Exhausted."""
    if tokens is not None:
        answer = request.max_tokens or OPENAI_ANSWER_TOKENS
        await tokens.need(prompt_tokens(request) + answer * max(1, request.choices))


async def metered(
    call: Awaitable[llm_pb2.ChatResponse], request: llm_pb2.ChatRequest, tokens: Reservation | None
) -> llm_pb2.ChatResponse:
    """An answer, with the tokens it used told to `tokens`; of one that nobody waited for, those of its prompt."""
    if tokens is None:
        return await call
    tokens.used = prompt_tokens(request)
    response = await call
    tokens.used = response.usage.input_tokens + response.usage.output_tokens
    return response


async def answers(
    llm: "llm_pb2_grpc.LlmServiceAsyncStub",
    request: llm_pb2.ChatRequest,
    timeout_seconds: float,
    tokens: Reservation | None,
) -> AsyncGenerator[llm_pb2.ChatStreamResponse]:
    """The stream of an answer; closing it stops the work behind it. `tokens` is told what it has used so far: a piece
    counts as one until the usage is known. Raises Invalid for a request with a key.
    """
    if request.idempotency_key:
        raise Invalid(
            "Idempotency-Key cannot be honoured for a streamed answer; leave one of the two out",
            details={"field": "Idempotency-Key"},
        )
    # The chassis's channels return generators where the generated stub promises grpc's own call object.
    call = cast("AsyncGenerator[llm_pb2.ChatStreamResponse]", llm.ChatStream(request, timeout=timeout_seconds))
    if tokens is not None:
        tokens.used = prompt_tokens(request)
    async with aclosing(call) as stream:
        async for answer in stream:
            if tokens is not None and answer.HasField("usage"):
                tokens.used = answer.usage.input_tokens + answer.usage.output_tokens
            elif tokens is not None:
                tokens.used += len(answer.deltas)
            yield answer


async def first(stream: AsyncGenerator[llm_pb2.ChatStreamResponse]) -> llm_pb2.ChatStreamResponse:
    """The first event of a stream, which its contract promises."""
    async for answer in stream:
        return answer
    raise Internal(private="llm ended a stream without an event")
