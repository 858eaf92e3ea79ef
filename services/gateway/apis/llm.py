"""Streamed answers of the llm service, as both chat APIs read them."""

from collections.abc import AsyncGenerator
from typing import cast

from mesh.llm.v1 import llm_pb2, llm_pb2_grpc

from chassis.errors import Internal, Invalid


def answers(
    llm: "llm_pb2_grpc.LlmServiceAsyncStub", request: llm_pb2.ChatRequest, timeout_seconds: float
) -> AsyncGenerator[llm_pb2.ChatStreamResponse]:
    """The stream of an answer; closing it stops the work behind it. Raises Invalid for a request with a key."""
    if request.idempotency_key:
        raise Invalid(
            "Idempotency-Key cannot be honoured for a streamed answer; leave one of the two out",
            details={"field": "Idempotency-Key"},
        )
    # The chassis's channels return generators where the generated stub promises grpc's own call object.
    call = llm.ChatStream(request, timeout=timeout_seconds)
    return cast("AsyncGenerator[llm_pb2.ChatStreamResponse]", call)


async def first(stream: AsyncGenerator[llm_pb2.ChatStreamResponse]) -> llm_pb2.ChatStreamResponse:
    """The first event of a stream, which its contract promises."""
    async for answer in stream:
        return answer
    raise Internal(private="llm ended a stream without an event")
