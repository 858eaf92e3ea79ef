"""Any server that speaks the OpenAI chat API: OpenAI itself, and Anthropic, Gemini, DeepSeek, vLLM and others by their
compatible endpoints. Knows the API's JSON, and nothing of sockets.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson

from chassis.clock import Clock
from services.llm.model import (
    Answer,
    Chat,
    Choice,
    Delta,
    Message,
    Model,
    Piece,
    Usage,
    estimate_tokens,
)
from services.llm.providers.http import Client, reach_end

_MAX_COUNT = 2**32 - 1
_LAST_SECOND = 4_102_444_800  # the year 2100; beyond it, a field is no time in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between the servers.

    Attributes:
        default_model: to prefer when only the provider is named; empty for the first of its list.
        models: what it has, for servers that cannot be asked.
        max_tokens_field: OpenAI's newer models refuse the old name, most other servers do not know the new one.
    """

    name: str
    default_model: str = ""
    models: tuple[str, ...] = ()
    max_tokens_field: str = "max_tokens"


class OpenAI:
    """A provider; see `services.llm.ports.Provider`."""

    def __init__(self, client: Client, dialect: Dialect, clock: Clock) -> None:
        self._client = client
        self._dialect = dialect
        self._clock = clock
        self._chat = client.locate("/chat/completions")
        self._list = client.locate("/models")
        self.name = dialect.name
        self.default_model = dialect.default_model

    async def models(self) -> tuple[Model, ...]:
        if self._dialect.models:
            return tuple(Model(name=name, provider=self.name) for name in self._dialect.models)
        document = await self._client.get(self._list)
        entries = document.get("data") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise self._client.failure("no list of models in the answer")
        return tuple(self._model(entry) for entry in entries if isinstance(entry, dict) and entry.get("id"))

    def _model(self, entry: Mapping[str, Any]) -> Model:
        created = _instant(entry.get("created"))
        # Gemini lists its models under a path, but answers to the bare name.
        return Model(name=str(entry["id"]).removeprefix("models/"), provider=self.name, created_at=created)

    async def chat(self, chat: Chat, model: str) -> Answer:
        document = await self._client.post(self._chat, self._body(chat, model), model)
        try:
            choices = tuple(_choice(entry) for entry in document["choices"])
        except (KeyError, TypeError, AttributeError) as error:
            raise self._client.failure(f"an answer of another shape: {orjson.dumps(document)[:200]!r}") from error
        if not choices:
            raise self._client.failure("an answer without choices")
        said = (choice.message.content for choice in choices)
        return Answer(
            id=_word(document.get("id"), "") or new_id(),
            model=_word(document.get("model"), model),
            provider=self.name,
            choices=choices,
            usage=_usage(document.get("usage")) or estimated_usage(chat, said),
            created_at=_instant(document.get("created")) or self._clock.now(),
        )

    async def stream(self, chat: Chat, model: str) -> AsyncGenerator[Piece, None]:
        usage, open_choices, done = None, set(range(chat.choices)), False
        said: list[str] = []
        number, answering = new_id(), model
        async with aclosing(self._client.lines(self._chat, self._body(chat, model, stream=True), model)) as lines:
            async for line in lines:
                if not line.startswith(b"data:"):
                    continue
                if line[5:].strip() == b"[DONE]":
                    done = True
                    await reach_end(lines)
                    break
                event = self._event(line[5:])
                number, answering = _word(event.get("id"), number), _word(event.get("model"), answering)
                usage = _usage(event.get("usage")) or usage
                deltas = self._deltas(event)
                if deltas:
                    said.extend(delta.content for delta in deltas)
                    open_choices.difference_update(delta.index for delta in deltas if delta.finish_reason)
                    yield Piece(id=number, model=answering, provider=self.name, deltas=deltas)
        if not done and open_choices:
            raise self._client.failure("the stream broke off")
        ending = usage or estimated_usage(chat, said)
        yield Piece(id=number, model=answering, provider=self.name, usage=ending)

    def _body(self, chat: Chat, model: str, *, stream: bool = False) -> bytes:
        body: dict[str, Any] = {
            name: value for name, value in chat.options.items() if name not in ("stream", "stream_options")
        }
        body["model"] = model
        body["messages"] = [_turn(message) for message in chat.messages]
        if chat.temperature is not None:
            body["temperature"] = chat.temperature
        if chat.max_tokens is not None:
            body[self._dialect.max_tokens_field] = chat.max_tokens
        if chat.top_p is not None:
            body["top_p"] = chat.top_p
        if chat.stop:
            body["stop"] = chat.stop
        if chat.seed is not None:
            body["seed"] = chat.seed
        if chat.choices > 1:
            body["n"] = chat.choices
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return orjson.dumps(body)

    def _event(self, data: bytes) -> dict[str, Any]:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise self._client.failure(f"no JSON in an event: {data[:200]!r}") from error
        if not isinstance(event, dict) or event.get("error"):
            raise self._client.failure(f"an error in the stream: {data[:500]!r}")
        return event

    def _deltas(self, event: Mapping[str, Any]) -> tuple[Delta, ...]:
        try:
            deltas = [_delta(entry) for entry in event.get("choices") or ()]
        except (TypeError, AttributeError) as error:
            raise self._client.failure("an event of another shape") from error
        return tuple(delta for delta in deltas if delta is not None)


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.parts:
        turn["content"] = message.parts
    if message.name:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = message.tool_calls
        turn["content"] = message.content or None
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _choice(entry: Mapping[str, Any]) -> Choice:
    said = entry["message"]
    message = Message(role="assistant", content=text(said.get("content")), tool_calls=calls(said.get("tool_calls")))
    return Choice(
        index=count(entry.get("index")), message=message, finish_reason=text(entry.get("finish_reason")) or "stop"
    )


def _delta(entry: Mapping[str, Any]) -> Delta | None:
    said = entry.get("delta") or {}
    content, called, reason = said.get("content"), said.get("tool_calls"), entry.get("finish_reason")
    if not content and not called and not reason:
        # As the first event, which only names the role.
        return None
    return Delta(
        index=count(entry.get("index")), content=text(content), tool_calls=calls(called), finish_reason=text(reason)
    )


def text(value: Any) -> str:
    """A text that may be null. Raises TypeError when it is something else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"a text was expected: {value!r:.100}")
    return value


def calls(value: Any) -> tuple[Mapping[str, object], ...]:
    """A list of tool calls that may be null. Raises TypeError when it is something else."""
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(call, dict) for call in value):
        raise TypeError(f"a list of calls was expected: {value!r:.100}")
    return tuple(value)


def _word(value: Any, otherwise: str) -> str:
    return value if value and isinstance(value, str) else otherwise


def _usage(document: Any) -> Usage | None:
    if not isinstance(document, dict):
        return None
    return Usage(
        input_tokens=count(document.get("prompt_tokens")), output_tokens=count(document.get("completion_tokens"))
    )


def count(value: Any) -> int:
    """A number of things; 0 for what is none."""
    return min(max(int(value), 0), _MAX_COUNT) if isinstance(value, int) else 0


def _instant(value: Any) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int) and 0 < value < _LAST_SECOND else None


def estimated_usage(chat: Chat, said: Iterable[str]) -> Usage:
    """The usage of an answer whose provider did not count."""
    return Usage(input_tokens=chat.estimated_tokens, output_tokens=estimate_tokens(said))


def new_id() -> str:
    """An answer's id, for providers that give none."""
    return f"chatcmpl-{uuid4().hex}"
