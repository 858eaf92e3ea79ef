"""Whatever JSON a provider sends, it becomes an answer that can travel, or the provider's failure: never our error."""

from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import Unavailable
from services.llm import wire
from services.llm.model import Chat, Message
from services.llm.providers.ollama import Ollama
from services.llm.providers.openai import Dialect, OpenAI
from tests.support.clock import FakeClock

CHAT = Chat(model="", messages=(Message(role="user", content="hi"),))

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5)
names = st.sampled_from(
    ["id", "model", "choices", "message", "delta", "content", "tool_calls", "finish_reason", "index", "usage",
     "created", "prompt_tokens", "completion_tokens", "data", "models",
     "name", "size", "modified_at", "done", "done_reason",
     "eval_count", "prompt_eval_count", "function", "arguments", "error"]
)  # fmt: skip
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=20
)


def entries(key: str) -> st.SearchStrategy[Any]:
    """Something that at first looks as it should."""
    choice = st.fixed_dictionaries({}, optional={key: documents, "index": scalars, "finish_reason": scalars})
    return st.fixed_dictionaries(
        {}, optional={"id": scalars, "model": scalars, "created": scalars, "usage": documents,
                      "choices": st.lists(choice, max_size=3) | documents, key: documents, "done": st.booleans()}
    )  # fmt: skip


class FakeClient:
    """Sends what it is told."""

    def __init__(self, *documents: Any) -> None:
        self._documents = documents

    def locate(self, path: str) -> str:
        return path

    async def get(self, url: str) -> Any:
        return self._documents[0]

    async def post(self, url: str, body: bytes, model: str) -> Any:
        return self._documents[0]

    async def lines(self, url: str, body: bytes, model: str) -> AsyncGenerator[bytes, None]:
        for document in self._documents:
            yield (b"data: " if "chat/completions" in url else b"") + orjson.dumps(document)
        yield b"data: [DONE]"

    def failure(self, private: str, retry_after_seconds: float | None = None) -> Unavailable:
        return Unavailable(code="PROVIDER_ERROR", private=private, retry_after_seconds=retry_after_seconds)


def providers(*documents: Any) -> tuple[Any, Any]:
    client: Any = FakeClient(*documents)
    return OpenAI(client, Dialect(name="openai"), FakeClock()), Ollama(client, "m", FakeClock())


@settings(deadline=None)
@given(entries("message") | documents)
async def test_whole_answers(document: Any):
    """In one piece."""
    for provider in providers(document):
        with suppress(Unavailable):
            assert wire.write_answer(await provider.chat(CHAT, "m")).SerializeToString()


@settings(deadline=None)
@given(st.lists(entries("delta") | entries("message") | documents, max_size=4))
async def test_streamed_answers(sent: list[Any]):
    """Event by event."""
    for provider in providers(*sent):
        with suppress(Unavailable):
            async for piece in provider.stream(CHAT, "m"):
                assert wire.write_piece(piece).SerializeToString()


entry = st.fixed_dictionaries(
    {}, optional={"id": scalars, "name": scalars, "created": scalars, "size": scalars, "modified_at": scalars}
)
listed = st.lists(entry, max_size=3) | documents


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional={"data": listed, "models": listed}) | documents)
async def test_lists_of_models(document: Any):
    """In the background, where an error of ours would end the process."""
    for provider in providers(document):
        with suppress(Unavailable):
            for model in await provider.models():
                assert wire.write_model(model).SerializeToString()
