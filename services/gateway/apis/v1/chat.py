"""``POST /api/v1/chat`` and ``/api/v1/chat/stream``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal, NotRequired

from mesh.llm.v1 import llm_pb2, llm_pb2_grpc
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from chassis.errors import Invalid, MeshError
from services.gateway.apis.exchange import (
    Attendance,
    event,
    header,
    read_body,
    send_events,
    send_json,
)
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, idempotency_key
from services.gateway.apis.llm import V1_ANSWER_TOKENS, answers, first, metered, reserve
from services.gateway.apis.problems import refused
from services.gateway.apis.shapes import WHOLE
from services.gateway.edge.asgi import Receive, Scope, Send
from services.gateway.edge.body import parse_json
from services.gateway.edge.context import current, require_scope
from services.gateway.edge.tokens import Reservation
from services.gateway.identity.model import Principal

_TEMPERATURE = 0.7


class ChatBody(TypedDict):
    """One message to a model."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # pydantic's own spelling for TypedDict

    message: Annotated[
        str, Field(min_length=1, description="What to say; not blank.", examples=["Hello, how are you?"])
    ]
    model: NotRequired[
        Annotated[
            str | None, Field(max_length=200, description="Default: the first model configured.", examples=["echo"])
        ]
    ]
    temperature: NotRequired[Annotated[float | None, Field(ge=0, le=1, description="Default 0.7.")]]
    max_tokens: NotRequired[Annotated[int | None, Field(ge=1, le=1_000_000, description="Default 2048."), WHOLE]]


class ChatAnswer(TypedDict):
    """What the model said. `tokens_used` counts what was read and what was written."""

    response: str
    model: str
    tokens_used: int


class TokenFrame(TypedDict):
    """A piece of a streamed answer."""

    token: str
    finish: Literal[False]


class LastFrame(TypedDict):
    """The end of a streamed answer; with `error` (code and message) when it did not end well."""

    finish: Literal[True]
    tokens_used: NotRequired[int]
    error: NotRequired[dict[str, str]]


CHAT_BODY: TypeAdapter[ChatBody] = TypeAdapter(ChatBody)
_validate = CHAT_BODY.validator.validate_python


def checked(body: Any) -> ChatBody:
    """A body of the documented shape. Raises Misshapen, and Invalid for a blank message."""
    try:
        request: ChatBody = _validate(body, strict=True)
    except ValidationError as error:
        raise refused(error) from None
    if request["message"].isspace():
        raise Invalid("Message is empty", details={"field": "message", "reason": "Message is empty"})
    return request


def to_request(body: ChatBody, principal: Principal, key: str) -> llm_pb2.ChatRequest:
    """The call for a body; `key` is the idempotency key, empty for none."""
    temperature = body.get("temperature")
    return llm_pb2.ChatRequest(
        model=body.get("model") or "",
        messages=[llm_pb2.Message(role="user", content=body["message"])],
        temperature=_TEMPERATURE if temperature is None else temperature,
        max_tokens=body.get("max_tokens") or V1_ANSWER_TOKENS,
        user_id=principal.user_id,
        api_key_id=principal.key_id,
        idempotency_key=key,
    )


def spoken(response: llm_pb2.ChatResponse) -> ChatAnswer:
    """An answer as this API tells it."""
    return ChatAnswer(
        response=response.choices[0].message.content if response.choices else "",
        model=response.model,
        tokens_used=_tokens(response.usage),
    )


class Chat:
    """Both handlers. `timeout_seconds` bounds a whole answer, streamed or not."""

    def __init__(self, llm: "llm_pb2_grpc.LlmServiceAsyncStub", timeout_seconds: float) -> None:
        self._llm = llm
        self._timeout_seconds = timeout_seconds

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI handler of ``/api/v1/chat``. Raises what is wrong with the request or behind it."""
        request = await self._request(scope, receive)
        with Attendance(receive):
            call = self._llm.Chat(request, timeout=self._timeout_seconds)
            response = await metered(call, request, current(scope).tokens)
        await send_json(send, spoken(response))

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI handler of ``/api/v1/chat/stream``. Raises as `answer` does, before the first frame."""
        request = await self._request(scope, receive)
        with Attendance(receive):
            await send_events(send, self._frames(request, current(scope).tokens))

    async def _request(self, scope: Scope, receive: Receive) -> llm_pb2.ChatRequest:
        principal = require_scope(scope, "chat")
        body = checked(parse_json(await read_body(receive)))
        request = to_request(body, principal, idempotency_key(header(scope, IDEMPOTENCY_KEY)))
        await reserve(request, current(scope).tokens)
        return request

    async def _frames(self, request: llm_pb2.ChatRequest, tokens: Reservation | None) -> AsyncGenerator[bytes]:
        used = 0
        async with aclosing(answers(self._llm, request, self._timeout_seconds, tokens)) as stream:
            answer = await first(stream)
            try:
                yield _pieces(answer)
                used = _tokens(answer.usage)
                async for answer in stream:
                    if pieces := _pieces(answer):
                        yield pieces
                    used = _tokens(answer.usage) or used
            except MeshError as error:
                yield event({"finish": True, "error": {"code": error.code, "message": error.message}})
                return
        yield event({"finish": True, "tokens_used": used})


def _pieces(answer: llm_pb2.ChatStreamResponse) -> bytes:
    return b"".join(event({"token": delta.content, "finish": False}) for delta in answer.deltas if delta.content)


def _tokens(usage: llm_pb2.Usage) -> int:
    return usage.input_tokens + usage.output_tokens
