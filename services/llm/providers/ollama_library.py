"""Ollama's library: models fetched from where it finds them, with the progress that it tells."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from services.llm.model import Fetched, unknown_model
from services.llm.providers.http import Client

# What Ollama says when its registry has no such model; all else that it says may be better another time.
_NOT_PUBLISHED = ("file does not exist", "not found", "invalid model name")
_LONGEST_STATUS = 200


class OllamaLibrary:
    """A library; see `services.llm.ports.Library`. Its client's time limit speaks of silence."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pull = client.locate("/api/pull")

    async def pull(self, model: str) -> AsyncGenerator[Fetched, None]:
        layers: dict[str, tuple[int, int]] = {}
        body = orjson.dumps({"model": model, "stream": True})
        async with aclosing(self._client.lines(self._pull, body, model)) as lines:
            async for line in lines:
                event = self._event(line, model)
                status = str(event.get("status") or "")[:_LONGEST_STATUS]
                if digest := event.get("digest"):
                    layers[str(digest)] = self._sizes(event)
                done, total = (sum(sizes) for sizes in zip((0, 0), *layers.values(), strict=True))
                yield Fetched(done_bytes=done, total_bytes=total, status=status)
                if status == "success":
                    return
        raise self._client.failure("the pull broke off")

    def _event(self, line: bytes, model: str) -> dict[str, Any]:
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise self._client.failure(f"no JSON in a line: {line[:200]!r}") from error
        if not isinstance(event, dict):
            raise self._client.failure(f"a line of another shape: {line[:200]!r}")
        if said := str(event.get("error") or ""):
            if any(words in said for words in _NOT_PUBLISHED):
                raise unknown_model(model)
            raise self._client.failure(f"an error in the pull: {said[:500]}")
        return event

    def _sizes(self, event: dict[str, Any]) -> tuple[int, int]:
        try:
            return int(event.get("completed") or 0), int(event.get("total") or 0)
        except (TypeError, ValueError) as error:
            raise self._client.failure("a line of another shape") from error
