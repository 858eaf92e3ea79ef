"""The built-in provider: it says what it is and repeats the question, always the same for the same request, so that
every path works where no language model is at hand. It pretends nothing.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from uuid import uuid4

from chassis.clock import Clock
from services.llm.model import Answer, Chat, Choice, Delta, Message, Model, Piece, Usage

_TOKEN = re.compile(r"\s*\S+\s*$|\s*\S+")
_INTRODUCTION = "This is the built-in echo model; no language model answers here. You said: "


class Echo:
    """A provider; see `services.llm.ports.Provider`. A token is a word with the white space before it."""

    name = "echo"
    default_model = "echo"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_at = clock.now()

    async def models(self) -> tuple[Model, ...]:
        return (Model(name="echo", provider="echo", created_at=self._started_at),)

    async def chat(self, chat: Chat, model: str) -> Answer:
        tokens, reason = _speak(chat)
        message = Message(role="assistant", content="".join(tokens))
        choices = tuple(Choice(index=i, message=message, finish_reason=reason) for i in range(chat.choices))
        return Answer(
            id=f"chatcmpl-{uuid4().hex}",
            model=model,
            provider=self.name,
            choices=choices,
            usage=_usage(chat, tokens),
            created_at=self._clock.now(),
        )

    async def stream(self, chat: Chat, model: str) -> AsyncGenerator[Piece, None]:
        number = f"chatcmpl-{uuid4().hex}"
        tokens, reason = _speak(chat)
        for token in tokens:
            deltas = tuple(Delta(index=i, content=token) for i in range(chat.choices))
            yield Piece(id=number, model=model, provider=self.name, deltas=deltas)
            # Others get their turn between two tokens, as they would while a real provider thinks.
            await asyncio.sleep(0)
        ends = tuple(Delta(index=i, finish_reason=reason) for i in range(chat.choices))
        yield Piece(id=number, model=model, provider=self.name, deltas=ends)
        yield Piece(id=number, model=model, provider=self.name, usage=_usage(chat, tokens))


def _speak(chat: Chat) -> tuple[list[str], str]:
    questions = [message.text for message in chat.messages if message.role == "user"]
    text = _INTRODUCTION + (questions[-1] if questions else "nothing")
    cuts = [at for stop in chat.stop if stop and (at := text.find(stop)) >= 0]
    tokens = _TOKEN.findall(text[: min(cuts)] if cuts else text)
    if chat.max_tokens is not None and len(tokens) > chat.max_tokens:
        return tokens[: chat.max_tokens], "length"
    return tokens, "stop"


def _usage(chat: Chat, tokens: list[str]) -> Usage:
    asked = sum(len(message.text.split()) for message in chat.messages)
    return Usage(input_tokens=asked, output_tokens=len(tokens) * chat.choices)
