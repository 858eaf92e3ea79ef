"""Ollama's native API: chat as lines of JSON, the list of models with their sizes, and which of them are in memory."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from chassis.clock import Clock
from chassis.errors import Invalid
from services.llm.model import Answer, Chat, Choice, Delta, Message, Model, ModelStatus, Piece, Usage
from services.llm.providers.http import Client, reach_end
from services.llm.providers.openai import calls, count, estimated_usage, new_id, text

# A fraction of a second with more digits than Python reads; Ollama prints nanoseconds.
_NANOSECONDS = re.compile(r"(\.\d{6})\d+")
_MAX_BYTES = 2**63 - 1
# This tag goes without saying.
_DEFAULT_TAG = ":latest"
# The options of the OpenAI API that Ollama has under the same name.
_SAMPLING = ("presence_penalty", "frequency_penalty")


class Ollama:
    """A provider; see `services.llm.ports.Provider`.

    An answer in one piece is put together from a streamed one, so that the time limit speaks of silence and not of the
    answer's length: a long answer of a slow machine is no failure.
    """

    def __init__(self, client: Client, default_model: str, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._chat = client.locate("/api/chat")
        self._tags = client.locate("/api/tags")
        self._loaded = client.locate("/api/ps")
        self.name = "ollama"
        self.default_model = default_model

    async def models(self) -> tuple[Model, ...]:
        tags, loaded = await self._client.get(self._tags), await self._client.get(self._loaded)
        try:
            in_memory = {entry["name"] for entry in loaded.get("models") or ()}
            return tuple(self._model(entry, in_memory) for entry in tags.get("models") or ())
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise self._client.failure("a list of models of another shape") from error

    def _model(self, entry: Mapping[str, Any], in_memory: set[str]) -> Model:
        name, modified = str(entry["name"]), entry.get("modified_at")
        short = name.removesuffix(_DEFAULT_TAG)
        return Model(
            name=short,
            provider=self.name,
            aliases=(name,) if name != short else (),
            size_bytes=min(max(0, int(entry.get("size") or 0)), _MAX_BYTES),
            status=ModelStatus.LOADED if name in in_memory else ModelStatus.AVAILABLE,
            created_at=datetime.fromisoformat(_NANOSECONDS.sub(r"\1", modified)) if modified else None,
        )

    async def chat(self, chat: Chat, model: str) -> Answer:
        said: list[str] = []
        made: list[Mapping[str, object]] = []
        reason = "stop"
        ending = Piece(id=new_id(), model=model, provider=self.name)
        async with aclosing(self.stream(chat, model)) as pieces:
            async for piece in pieces:
                for delta in piece.deltas:
                    said.append(delta.content)
                    made.extend(delta.tool_calls)
                    reason = delta.finish_reason or reason
                ending = piece
        message = Message(role="assistant", content="".join(said), tool_calls=tuple(_without_index(c) for c in made))
        return Answer(
            id=ending.id,
            model=ending.model,
            provider=self.name,
            choices=(Choice(index=0, message=message, finish_reason=reason),),
            usage=ending.usage or Usage(),
            created_at=self._clock.now(),
        )

    async def stream(self, chat: Chat, model: str) -> AsyncGenerator[Piece, None]:
        opening = Piece(id=new_id(), model=model, provider=self.name)
        said: list[str] = []
        called = 0
        async with aclosing(self._client.lines(self._chat, _body(chat, model), model)) as lines:
            async for line in lines:
                event = self._event(line)
                content, made = self._said(event, called)
                called += len(made)
                if content or made:
                    said.append(content)
                    yield replace(opening, deltas=(Delta(index=0, content=content, tool_calls=made),))
                if event.get("done"):
                    await reach_end(lines)
                    reason = "tool_calls" if called else str(event.get("done_reason") or "stop")
                    yield replace(opening, deltas=(Delta(index=0, finish_reason=reason),))
                    yield replace(opening, usage=_usage(event) or estimated_usage(chat, said))
                    return
        raise self._client.failure("the stream broke off")

    def _event(self, line: bytes) -> dict[str, Any]:
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise self._client.failure(f"no JSON in a line: {line[:200]!r}") from error
        if not isinstance(event, dict) or event.get("error"):
            raise self._client.failure(f"an error in the stream: {line[:500]!r}")
        return event

    def _said(self, event: Mapping[str, Any], called: int) -> tuple[str, tuple[Mapping[str, object], ...]]:
        try:
            message = event.get("message") or {}
            found = calls(message.get("tool_calls"))
            return text(message.get("content")), tuple(_call(call, called + i) for i, call in enumerate(found))
        except (AttributeError, KeyError, TypeError) as error:
            raise self._client.failure("a line of another shape") from error


def _body(chat: Chat, model: str) -> bytes:
    if chat.choices > 1:
        raise Invalid("Ollama gives one choice a request", details={"field": "n"})
    body: dict[str, Any] = {"model": model, "messages": [_turn(m) for m in chat.messages], "stream": True}
    if tools := chat.options.get("tools"):
        body["tools"] = tools
    if (form := _format(chat.options.get("response_format"))) is not None:
        body["format"] = form
    if options := _options(chat):
        body["options"] = options
    return orjson.dumps(body)


def _options(chat: Chat) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "seed": chat.seed,
        "num_predict": chat.max_tokens,
        "stop": chat.stop or None,
        **{name: chat.options.get(name) for name in _SAMPLING},
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _format(wanted: object) -> object | None:
    """OpenAI's `response_format` as Ollama's `format`: a schema, or "json"."""
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_schema":
        schema: object | None = (wanted.get("json_schema") or {}).get("schema")
        return schema
    return "json" if wanted.get("type") == "json_object" else None


def _turn(message: Message) -> dict[str, Any]:
    # Ollama has no developer; it is OpenAI's newer word for the system.
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": message.text}
    if images := [_image(part) for part in message.parts if part.get("type") == "image_url"]:
        turn["images"] = images
    if message.tool_calls:
        turn["tool_calls"] = [_their_call(call) for call in message.tool_calls]
    if message.name:
        turn["tool_name"] = message.name
    return turn


def _image(part: Mapping[str, Any]) -> str:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url.startswith("data:") or "," not in url:
        raise Invalid("Ollama takes pictures as data: URLs only", details={"field": "image_url"})
    return url.partition(",")[2]


def _their_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call as Ollama has it: the arguments are an object, not its text."""
    function = call.get("function")
    if not isinstance(function, dict):
        raise Invalid("A tool call must name a function", details={"field": "tool_calls"})
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError as error:
        raise Invalid("A tool call's arguments are no JSON", details={"field": "tool_calls"}) from error
    return {"function": {"name": function.get("name"), "arguments": arguments}}


def _call(call: Mapping[str, Any], index: int) -> Mapping[str, object]:
    """A tool call as the OpenAI API has it in a stream."""
    function = call["function"]
    arguments = orjson.dumps(function.get("arguments") or {}).decode()
    return {
        "index": index,
        "id": f"call_{index}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _without_index(call: Mapping[str, object]) -> Mapping[str, object]:
    return {name: value for name, value in call.items() if name != "index"}


def _usage(event: Mapping[str, Any]) -> Usage | None:
    if not isinstance(event.get("eval_count"), int):
        return None
    # A prompt that is still in Ollama's cache is not counted again, and the field is left out.
    return Usage(input_tokens=count(event.get("prompt_eval_count")), output_tokens=count(event.get("eval_count")))
