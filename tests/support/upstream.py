"""A provider's server on loopback that speaks the real wire formats of OpenAI and Ollama, and fails as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

KEY = "sk-upstream"
MODEL = "tiny"


class Upstream:
    """Answers "You said: …", a word a token.

    Attributes:
        pulled: models that were fetched.
        trouble: what goes wrong: "" nothing, "silent" no answer at all, "stall" silence after the first token, "die"
            the connection breaks after it, "error" an error event after it, "garbage" no JSON, or an HTTP status.
        words: of the error, when `trouble` is a status.
        received: the bodies of all requests for an answer.
        left: set when a client has left before its answer was complete.
    """

    def __init__(self) -> None:
        self.url = ""
        self.trouble = ""
        self.words = "the upstream's own words"
        self.headers: dict[str, str] = {}
        self.received: list[dict[str, Any]] = []
        self.message_extra: dict[str, Any] = {}
        self.counts_tokens = True
        self.pulled: list[str] = []
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self._openai),
            web.get("/v1/models", self._openai_models),
            web.post("/api/chat", self._ollama),
            web.get("/api/tags", self._ollama_tags),
            web.get("/api/ps", self._ollama_loaded),
            web.post("/api/pull", self._ollama_pull),
        ]

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        body = await self._take(request)
        if (refused := self._refuse({"error": {"message": self.words, "type": "x"}})) is not None:
            return refused
        tokens, reason = _speak(body, body.get("max_tokens"))
        head = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": body["model"]}
        asked = sum(len(str(turn.get("content")).split()) for turn in body["messages"])
        usage = {"prompt_tokens": asked, "completion_tokens": len(tokens), "total_tokens": asked + len(tokens)}
        counted = {"usage": usage} if self.counts_tokens else {}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(tokens), **self.message_extra}
            return web.json_response(
                {**head, "choices": [{"index": 0, "message": message, "finish_reason": reason}], **counted}
            )
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        events = [{**head, "choices": [first]}]
        events += [{**head, "choices": [{"index": 0, "delta": {"content": t}}]} for t in tokens]
        events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        events += [{**head, "choices": [], **counted}] if counted else []
        lines = [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]
        error = b'data: {"error": {"message": "out of memory"}}\n\n'
        return await self._say(request, "text/event-stream", [*lines, b"data: [DONE]\n\n"], error)

    async def _ollama(self, request: web.Request) -> web.StreamResponse:
        body = await self._take(request)
        if (refused := self._refuse({"error": self.words})) is not None:
            return refused
        tokens, reason = _speak(body, body.get("options", {}).get("num_predict"))
        asked = sum(len(turn["content"].split()) for turn in body["messages"])
        counted = {"prompt_eval_count": asked, "eval_count": len(tokens)} if self.counts_tokens else {}
        head = {"model": body["model"], "created_at": "2026-01-01T00:00:00.123456789Z"}
        events = [{**head, "message": {"role": "assistant", "content": t}, "done": False} for t in tokens]
        if self.message_extra:
            events.append({**head, "message": {"role": "assistant", "content": "", **self.message_extra}})
        ending = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason, **counted}
        lines = [orjson.dumps(event) + b"\n" for event in [*events, {**head, **ending}]]
        return await self._say(request, "application/x-ndjson", lines, b'{"error": "out of memory"}\n')

    async def _take(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = orjson.loads(await request.read())
        self.received.append(body)
        self.asked.set()
        if self.trouble == "silent":
            await self._hang()
        return body

    def _refuse(self, document: dict[str, Any]) -> web.Response | None:
        if self.trouble == "garbage":
            return web.Response(body=b"<html>surprise</html>\n")
        if self.trouble.isdigit():
            return web.json_response(document, status=int(self.trouble), headers=self.headers)
        return None

    async def _say(self, request: web.Request, kind: str, lines: list[bytes], error: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        for number, line in enumerate(lines):
            await response.write(line)
            if number == 1 and self.trouble == "die":
                assert request.transport is not None
                request.transport.abort()
            elif number == 1 and self.trouble == "stall":
                await self._hang()
            elif number == 1 and self.trouble == "error":
                await response.write(error)
                break
            elif number == 1 and self.trouble == "end":
                break
        await response.write_eof()
        return response

    async def _hang(self) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def _openai_models(self, request: web.Request) -> web.Response:
        del request
        if (refused := self._refuse({"error": {"message": self.words}})) is not None:
            return refused
        return web.json_response({"object": "list", "data": [{"id": MODEL, "created": 1_700_000_000}, {"id": "big"}]})

    async def _ollama_tags(self, request: web.Request) -> web.Response:
        del request
        if (refused := self._refuse({"error": self.words})) is not None:
            return refused
        at = "2026-01-01T00:00:00.123456789-07:00"
        tiny = {"name": f"{MODEL}:latest", "model": f"{MODEL}:latest", "modified_at": at, "size": 637_000_000}
        others = [{"name": name, "modified_at": at, "size": 3_000} for name in self.pulled]
        return web.json_response(
            {"models": [{"name": "big:7b", "modified_at": at, "size": 4_000_000_000}, tiny, *others]}
        )

    async def _ollama_pull(self, request: web.Request) -> web.StreamResponse:
        """Two layers. A model that nobody publishes is an error inside a stream that began well, as Ollama has it."""
        name = (await self._take(request))["model"]
        if (refused := self._refuse({"error": self.words})) is not None:
            return refused
        events: list[dict[str, Any]] = [{"status": "pulling manifest"}]
        if name == "nobodys":
            events.append({"error": "pull model manifest: file does not exist"})
        else:
            for digest, total in (("sha256:a", 2_000), ("sha256:b", 1_000)):
                layer = {"status": f"pulling {digest}", "digest": digest, "total": total}
                events += [{**layer, "completed": done} for done in (0, total // 2, total)]
            events += [{"status": "verifying sha256 digest"}, {"status": "success"}]
            self.pulled.append(name)
        lines = [orjson.dumps(event) + b"\n" for event in events]
        return await self._say(request, "application/x-ndjson", lines, b'{"error": "no space left on device"}\n')

    async def _ollama_loaded(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"models": [{"name": f"{MODEL}:latest", "size_vram": 0}]})


def _speak(body: dict[str, Any], most: int | None) -> tuple[list[str], str]:
    text = body["messages"][-1]["content"]
    words = f"You said: {text}".split(" ")
    tokens = [words[0], *(f" {word}" for word in words[1:])]
    return (tokens[:most], "length") if most is not None and most < len(tokens) else (tokens, "stop")


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """A server on a free port."""
    fake = Upstream()
    app = web.Application()
    app.add_routes(fake.routes())
    # A handler whose client has left is cancelled: that is how the tests see the socket close.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.url = f"http://{host}:{port}"
    try:
        yield fake
    finally:
        await runner.cleanup()
