"""A model provider that answers at once: the OpenAI chat API with a fixed answer, for benchmarks.

It knows just enough HTTP/1.1 to be no bottleneck: keep-alive, pipelining, Content-Length bodies and chunked SSE.
"""

import argparse
import asyncio
from collections import deque
from typing import cast

import orjson
import uvloop

_HEAD_END = b"\r\n\r\n"
_WORDS = ("The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".")


def _respond(body: bytes, content_type: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, content_type, len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(payload: dict[str, object]) -> bytes:
    return _chunk(b"data: " + orjson.dumps({**_HEADER, "object": "chat.completion.chunk", **payload}) + b"\n\n")


_HEADER: dict[str, object] = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "bench"}
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MODELS = _respond(orjson.dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]}))
_UNKNOWN = _respond(b'{"error":{"message":"unknown path","type":"invalid_request_error"}}', status=b"404 Not Found")


class Answers:
    """Everything the upstream says, built once.

    Args:
        tokens: how many tokens an answer has.
        delay_seconds: before an answer, or before the first token of a stream.
        token_delay_seconds: between two tokens of a stream; 0 sends them in one write.
    """

    def __init__(self, *, tokens: int, delay_seconds: float, token_delay_seconds: float) -> None:
        self.delay_seconds = delay_seconds
        self.token_delay_seconds = token_delay_seconds
        words = [_WORDS[number % len(_WORDS)] for number in range(tokens)]
        usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": tokens + 9}
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {**_HEADER, "object": "chat.completion", "choices": [choice], "usage": usage}
        self.whole = _respond(orjson.dumps(whole))
        self.events = [
            _event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}) for word in words
        ]
        self.ending = (
            _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            + _event({"choices": [], "usage": usage})
            + _chunk(b"data: [DONE]\n\n")
            + b"0\r\n\r\n"
        )
        self.stream = _STREAM_HEAD + b"".join(self.events) + self.ending


class Upstream(asyncio.Protocol):
    """One connection; its requests are answered in order."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, only alike.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if self._work is not None:
            self._work.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(_HEAD_END)) >= 0:
            head = self._buffer[:end]
            start = end + len(_HEAD_END)
            stop = start + _content_length(head)
            if len(self._buffer) < stop:
                return
            body, self._buffer = self._buffer[start:stop], self._buffer[stop:]
            self._take(head, body)

    def _take(self, head: bytes, body: bytes) -> None:
        slow = self._answers.delay_seconds or self._answers.token_delay_seconds
        if not slow and self._transport is not None:
            self._transport.write(self._instant(head, body))
            return
        self._waiting.append((head, body))
        if self._work is None or self._work.done():
            self._work = asyncio.get_running_loop().create_task(self._work_off())

    def _instant(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"POST") and b"/chat/completions" in head:
            return self._answers.stream if _streams(body) else self._answers.whole
        return _MODELS if head.startswith(b"GET") and b"/models" in head else _UNKNOWN

    async def _work_off(self) -> None:
        while self._waiting and self._transport is not None:
            head, body = self._waiting.popleft()
            await asyncio.sleep(self._answers.delay_seconds)
            if not (self._answers.token_delay_seconds and _streams(body)):
                self._transport.write(self._instant(head, body))
                continue
            self._transport.write(_STREAM_HEAD)
            for event in self._answers.events:
                self._transport.write(event)
                await asyncio.sleep(self._answers.token_delay_seconds)
            self._transport.write(self._answers.ending)


def _streams(body: bytes) -> bool:
    return b'"stream":true' in body or b'"stream": true' in body


def _content_length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at < 0:
        return 0
    line_end = lower.find(b"\r\n", at)
    return int(lower[at + 15 : line_end if line_end >= 0 else len(lower)])


async def serve(port: int, answers: Answers, host: str = "127.0.0.1") -> asyncio.Server:
    """Listens; port 0 takes any free one."""
    return await asyncio.get_running_loop().create_server(lambda: Upstream(answers), host, port, backlog=1024)


async def _main(options: argparse.Namespace) -> None:
    answers = Answers(
        tokens=options.tokens,
        delay_seconds=options.delay_ms / 1000,
        token_delay_seconds=options.token_delay_ms / 1000,
    )
    server = await serve(options.port, answers, options.host)
    address = server.sockets[0].getsockname()
    print(f"upstream at http://{address[0]}:{address[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9911, help="0: any free one, printed")
    parser.add_argument("--delay-ms", type=float, default=0, help="before each answer")
    parser.add_argument("--tokens", type=int, default=16, help="in each answer")
    parser.add_argument("--token-delay-ms", type=float, default=0, help="between two tokens of a stream")
    uvloop.run(_main(parser.parse_args()))
