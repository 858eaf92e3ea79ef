"""``POST /v1/chat/completions``, whole and streamed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mesh.llm.v1 import llm_pb2, llm_pb2_grpc

from chassis.clock import Clock
from chassis.errors import MeshError
from services.gateway.apis.exchange import (
    Attendance,
    event,
    header,
    read_body,
    send_events,
    send_json,
)
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, idempotency_key
from services.gateway.apis.llm import answers, first, metered, reserve
from services.gateway.apis.openai.errors import openai_body, openai_status
from services.gateway.apis.openai.shapes import ChatCompletionRequest
from services.gateway.apis.openai.wire import Chunks, checked, completion, to_request
from services.gateway.edge.asgi import Receive, Scope, Send
from services.gateway.edge.body import parse_json
from services.gateway.edge.context import current, require_scope
from services.gateway.edge.tokens import Reservation

_DONE = b"data: [DONE]\n\n"


class ChatCompletions:
    """The handler. `timeout_seconds` bounds a whole answer, streamed or not."""

    def __init__(self, llm: "llm_pb2_grpc.LlmServiceAsyncStub", clock: Clock, timeout_seconds: float) -> None:
        self._llm = llm
        self._clock = clock
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Raises what is wrong with the request or behind it."""
        principal = require_scope(scope, "chat")
        body = checked(parse_json(await read_body(receive)))
        request = to_request(body, principal, idempotency_key(header(scope, IDEMPOTENCY_KEY)))
        tokens = current(scope).tokens
        await reserve(request, tokens)
        with Attendance(receive):
            if body.get("stream"):
                await send_events(send, self._frames(request, body, tokens))
            else:
                response = await metered(self._llm.Chat(request, timeout=self._timeout_seconds), request, tokens)
                await send_json(send, completion(response, self._now()))

    async def _frames(
        self, request: llm_pb2.ChatRequest, body: ChatCompletionRequest, tokens: Reservation | None
    ) -> AsyncGenerator[bytes]:
        options = body.get("stream_options")
        chunks = Chunks(self._now(), with_usage=bool(options and options.get("include_usage")))
        async with aclosing(answers(self._llm, request, self._timeout_seconds, tokens)) as stream:
            yield chunks.frames(await first(stream))
            try:
                async for answer in stream:
                    if frames := chunks.frames(answer):
                        yield frames
            except MeshError as error:
                # The status is long sent: the SDKs raise on a frame with an error, and no [DONE] follows.
                yield event(openai_body(error, openai_status(error)))
                return
        yield _DONE

    def _now(self) -> int:
        return int(self._clock.now().timestamp())
