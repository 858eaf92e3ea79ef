"""Spans around a provider's calls, by OpenTelemetry's conventions for generative AI; here is where its names live."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from chassis import telemetry
from services.llm.model import Answer, Chat, Model, Piece, Usage
from services.llm.ports import Provider

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_CHOICES = "gen_ai.request.choice.count"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

# The registered name where it is not ours; Ollama has none.
_REGISTERED = {"gemini": "gcp.gemini"}


class Traced:
    """A provider whose every answer is a span ``chat <model>``."""

    def __init__(self, inner: Provider) -> None:
        self._inner = inner
        self._registered = _REGISTERED.get(inner.name, inner.name)
        self.name = inner.name
        self.default_model = inner.default_model

    async def models(self) -> tuple[Model, ...]:
        return await self._inner.models()

    async def chat(self, chat: Chat, model: str) -> Answer:
        with telemetry.span(f"chat {model}", telemetry.CLIENT, None, self._asked(chat, model, stream=False)) as span:
            answer = await self._inner.chat(chat, model)
            span.set(RESPONSE_ID, answer.id)
            span.set(RESPONSE_MODEL, answer.model)
            span.set(RESPONSE_FINISH_REASONS, tuple(choice.finish_reason for choice in answer.choices))
            _set_usage(span, answer.usage)
            return answer

    async def stream(self, chat: Chat, model: str) -> AsyncGenerator[Piece, None]:
        attributes = self._asked(chat, model, stream=True)
        reasons: list[str] = []
        with telemetry.span(f"chat {model}", telemetry.CLIENT, None, attributes) as span:
            async with aclosing(self._inner.stream(chat, model)) as pieces:
                async for piece in pieces:
                    reasons.extend(delta.finish_reason for delta in piece.deltas if delta.finish_reason)
                    if piece.usage is not None:
                        span.set(RESPONSE_ID, piece.id)
                        span.set(RESPONSE_MODEL, piece.model)
                        span.set(RESPONSE_FINISH_REASONS, tuple(reasons))
                        _set_usage(span, piece.usage)
                    yield piece

    def _asked(self, chat: Chat, model: str, *, stream: bool) -> dict[str, str | int | float | bool]:
        attributes: dict[str, str | int | float | bool] = {
            OPERATION: "chat",
            PROVIDER: self._registered,
            REQUEST_MODEL: model,
            REQUEST_STREAM: stream,
        }
        asked = {
            REQUEST_MAX_TOKENS: chat.max_tokens,
            REQUEST_TEMPERATURE: chat.temperature,
            REQUEST_TOP_P: chat.top_p,
            REQUEST_SEED: chat.seed,
        }
        attributes.update({name: value for name, value in asked.items() if value is not None})
        if chat.choices > 1:
            attributes[REQUEST_CHOICES] = chat.choices
        return attributes


def _set_usage(span: telemetry.Recording, usage: Usage) -> None:
    span.set(INPUT_TOKENS, usage.input_tokens)
    span.set(OUTPUT_TOKENS, usage.output_tokens)
