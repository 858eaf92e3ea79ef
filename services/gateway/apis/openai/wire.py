"""OpenAI's JSON ↔ `mesh.llm.v1`. Pure."""

from typing import Any

import orjson
from mesh.llm.v1 import llm_pb2
from pydantic import ValidationError

from services.gateway.apis.exchange import event
from services.gateway.apis.openai.shapes import CHAT_REQUEST, ChatCompletionRequest, ChatMessage
from services.gateway.apis.problems import refused
from services.gateway.identity.model import Principal

# What has a field of its own in the contract; everything else in a body travels as options, also the name that a client
# gives its own user, which some providers ask for.
_UNDERSTOOD = frozenset(ChatCompletionRequest.__annotations__) - {"user"}
_validate = CHAT_REQUEST.validator.validate_python


def checked(body: Any) -> ChatCompletionRequest:
    """A body of the documented shape. Raises Misshapen."""
    try:
        request: ChatCompletionRequest = _validate(body, strict=True)
    except ValidationError as error:
        raise refused(error) from None
    return request


def to_request(body: ChatCompletionRequest, principal: Principal, key: str) -> llm_pb2.ChatRequest:
    """The call for a body; `key` is the idempotency key, empty for none."""
    stop = body.get("stop") or []
    request = llm_pb2.ChatRequest(
        model=body["model"],
        messages=[_to_message(message) for message in body["messages"]],
        temperature=body.get("temperature"),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        top_p=body.get("top_p"),
        stop=[stop] if isinstance(stop, str) else stop,
        seed=body.get("seed"),
        choices=body.get("n") or 0,
        user_id=principal.user_id,
        api_key_id=principal.key_id,
        idempotency_key=key,
    )
    if not _UNDERSTOOD.issuperset(body):
        request.options = orjson.dumps({name: value for name, value in body.items() if name not in _UNDERSTOOD})
    return request


def _to_message(message: ChatMessage) -> llm_pb2.Message:
    content = message.get("content")
    built = llm_pb2.Message(role=message["role"])
    if isinstance(content, str):
        built.content = content
    elif content:
        built.parts = orjson.dumps(content)
    if len(message) > 2:  # noqa: PLR2004 - more than role and content, which is rare
        built.name = message.get("name") or ""
        built.tool_call_id = message.get("tool_call_id") or ""
        if calls := message.get("tool_calls"):
            built.tool_calls = orjson.dumps(calls)
    return built


def completion(response: llm_pb2.ChatResponse, created: int) -> dict[str, Any]:
    """``chat.completion``."""
    return {
        "id": response.id,
        "object": "chat.completion",
        "created": created,
        "model": response.model,
        "choices": [_choice(choice) for choice in response.choices],
        "usage": usage(response.usage),
        "system_fingerprint": None,
    }


def _choice(choice: llm_pb2.Choice) -> dict[str, Any]:
    said = choice.message
    message: dict[str, Any] = {"role": said.role or "assistant", "content": said.content, "refusal": None}
    if said.tool_calls:
        message["tool_calls"] = orjson.loads(said.tool_calls)
        message["content"] = said.content or None
    return {"index": choice.index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def usage(figures: llm_pb2.Usage) -> dict[str, int]:
    """Tokens as OpenAI names them."""
    read, written = figures.input_tokens, figures.output_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class Chunks:
    """The ``chat.completion.chunk`` events of one streamed answer. `created` is Unix time."""

    def __init__(self, created: int, *, with_usage: bool) -> None:
        self._created = created
        self._with_usage = with_usage
        self._head: dict[str, Any] = {}
        self._begun: set[int] = set()

    def frames(self, answer: llm_pb2.ChatStreamResponse) -> bytes:
        """The events for one answer of the service, back to back; empty when it has nothing for the client."""
        if not self._head:
            self._head = {
                "id": answer.id,
                "object": "chat.completion.chunk",
                "created": self._created,
                "model": answer.model,
                "system_fingerprint": None,
            }
            if self._with_usage:
                self._head["usage"] = None
        frames = [self._frame(delta) for delta in answer.deltas]
        if self._with_usage and answer.HasField("usage"):
            frames.append(event(self._head | {"choices": [], "usage": usage(answer.usage)}))
        return b"".join(frames)

    def _frame(self, delta: llm_pb2.Delta) -> bytes:
        new: dict[str, Any] = {}
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            new["role"] = "assistant"
        if delta.content or ("role" in new and not delta.tool_calls):
            new["content"] = delta.content
        if delta.tool_calls:
            new["tool_calls"] = orjson.loads(delta.tool_calls)
        choice = {"index": delta.index, "delta": new, "logprobs": None, "finish_reason": delta.finish_reason or None}
        return event(self._head | {"choices": [choice]})
