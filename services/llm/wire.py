"""Model ↔ contract, pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.llm.v1 import llm_pb2

from chassis.errors import Invalid
from services.llm.model import Answer, Chat, Delta, Message, Model, ModelUsage, Piece, ProviderState, Usage


def read_chat(request: llm_pb2.ChatRequest) -> Chat:
    """The request. Raises Invalid when one of its JSON fields is none."""
    return Chat(
        model=request.model,
        messages=tuple(_read_message(message) for message in request.messages),
        temperature=request.temperature if request.HasField("temperature") else None,
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        top_p=request.top_p if request.HasField("top_p") else None,
        stop=tuple(request.stop),
        seed=request.seed if request.HasField("seed") else None,
        choices=request.choices or 1,
        options=_read_object(request.options) if request.options else {},
        user_id=request.user_id,
        api_key_id=request.api_key_id,
        idempotency_key=request.idempotency_key,
    )


def _read_message(message: llm_pb2.Message) -> Message:
    return Message(
        role=message.role,
        content=message.content,
        parts=_read_list(message.parts, "parts") if message.parts else (),
        name=message.name,
        tool_calls=_read_list(message.tool_calls, "tool_calls") if message.tool_calls else (),
        tool_call_id=message.tool_call_id,
    )


def _read_json(value: bytes, field: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"{field} is no JSON", details={"field": field}) from error


def _read_object(value: bytes) -> Mapping[str, object]:
    found = _read_json(value, "options")
    if not isinstance(found, dict):
        raise Invalid("options must be a JSON object", details={"field": "options"})
    return found


def _read_list(value: bytes, field: str) -> tuple[Mapping[str, object], ...]:
    found = _read_json(value, field)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise Invalid(f"{field} must be a JSON array of objects", details={"field": field})
    return tuple(found)


def write_answer(answer: Answer) -> llm_pb2.ChatResponse:
    """The whole answer."""
    return llm_pb2.ChatResponse(
        id=answer.id,
        model=answer.model,
        provider=answer.provider,
        choices=[
            llm_pb2.Choice(
                index=choice.index, message=_write_message(choice.message), finish_reason=choice.finish_reason
            )
            for choice in answer.choices
        ],
        usage=_write_usage(answer.usage),
        created_at=_write_time(answer.created_at),
    )


def _write_message(message: Message) -> llm_pb2.Message:
    written = llm_pb2.Message(role=message.role, content=message.content)
    if message.tool_calls:
        written.tool_calls = orjson.dumps(message.tool_calls)
    return written


def write_piece(piece: Piece) -> llm_pb2.ChatStreamResponse:
    """One event of a streamed answer."""
    written = llm_pb2.ChatStreamResponse(
        id=piece.id,
        model=piece.model,
        provider=piece.provider,
        deltas=[_write_delta(delta) for delta in piece.deltas],
    )
    if piece.usage is not None:
        written.usage.CopyFrom(_write_usage(piece.usage))
    return written


def _write_delta(delta: Delta) -> llm_pb2.Delta:
    written = llm_pb2.Delta(index=delta.index, content=delta.content, finish_reason=delta.finish_reason)
    if delta.tool_calls:
        written.tool_calls = orjson.dumps(delta.tool_calls)
    return written


def _write_usage(usage: Usage) -> llm_pb2.Usage:
    return llm_pb2.Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)


def write_model(model: Model) -> llm_pb2.Model:
    """A model of the catalogue."""
    return llm_pb2.Model(
        name=model.name,
        provider=model.provider,
        size_bytes=model.size_bytes,
        status=model.status,
        last_used_at=_write_time(model.last_used_at) if model.last_used_at is not None else None,
        created_at=_write_time(model.created_at) if model.created_at is not None else None,
    )


def write_provider(state: ProviderState) -> llm_pb2.Provider:
    """A provider's state."""
    return llm_pb2.Provider(name=state.name, available=state.available, circuit=state.circuit)


def write_total(total: ModelUsage) -> llm_pb2.ModelUsage:
    """One model's usage."""
    return llm_pb2.ModelUsage(
        model=total.model,
        requests=total.requests,
        failures=total.failures,
        input_tokens=total.input_tokens,
        output_tokens=total.output_tokens,
    )


def read_since(request: llm_pb2.GetUsageRequest) -> datetime | None:
    """The time asked from; None for all time. Raises Invalid when it is no time."""
    if not request.HasField("since"):
        return None
    try:
        return request.since.ToDatetime(tzinfo=UTC)
    except ValueError as error:
        raise Invalid("since is out of range", details={"field": "since"}) from error


def _write_time(value: datetime) -> Timestamp:
    return Timestamp(seconds=int(value.timestamp()), nanos=value.microsecond * 1000)
