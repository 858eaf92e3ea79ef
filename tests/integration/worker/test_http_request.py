"""The http_request action against a real server on loopback."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.tasks.worker.handlers.fetching import Fetcher
from worker.handler import Reject, Retry


@pytest.fixture
async def server() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers every path with a redirect, but /big with too much."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        seen.append(head + await reader.readexactly(length))
        body = b"x" * 2_000_000 if b"/big" in head else b"moved"
        status = b"302 Found\r\nlocation: http://127.0.0.1:1/" if body == b"moved" else b"200 OK"
        writer.write(b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)
        writer.close()

    opened = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield opened.sockets[0].getsockname()[1], seen
    opened.close()


async def test_a_listed_host_is_called(server: tuple[int, list[bytes]]) -> None:
    """Method, headers and body arrive; a redirect is an answer and is not followed."""
    port, seen = server
    fetcher = Fetcher(frozenset({f"127.0.0.1:{port}"}))
    wanted = {"url": f"http://127.0.0.1:{port}/a", "method": "post", "headers": {"x-a": "b"}, "body": {"n": 1}}
    answer = await fetcher.fetch(wanted)
    assert (answer["status"], answer["body"]) == (302, "moved")
    assert seen[0].startswith(b"POST /a HTTP/1.1")
    assert b"x-a: b" in seen[0].lower()
    assert seen[0].endswith(b'{"n":1}')


async def test_a_name_is_called_at_the_address_that_was_judged(server: tuple[int, list[bytes]]) -> None:
    """Localhost is allowed by its name, and its Host header is its name."""
    port, seen = server
    fetcher = Fetcher(frozenset({"localhost"}))
    assert (await fetcher.fetch({"url": f"http://localhost:{port}/"}))["status"] == 302
    assert f"host: localhost:{port}".encode() in seen[0].lower()


async def test_an_answer_may_not_be_too_large(server: tuple[int, list[bytes]]) -> None:
    """More than a mebibyte is refused for good."""
    port, _ = server
    with pytest.raises(Reject) as rejected:
        await Fetcher(frozenset({"127.0.0.1"})).fetch({"url": f"http://127.0.0.1:{port}/big"})
    assert rejected.value.code == "RESPONSE_TOO_LARGE"


async def test_a_host_that_does_not_answer_is_tried_again() -> None:
    """Nobody listens: another attempt may go better."""
    with pytest.raises(Retry):
        await Fetcher(frozenset({"127.0.0.1"})).fetch({"url": "http://127.0.0.1:1/"})


@pytest.mark.parametrize("headers", [{"bad name": "x"}, {"x": "a\nb"}, {"x": 1}, []])
async def test_headers_that_are_none_are_rejected(headers: object, server: tuple[int, list[bytes]]) -> None:
    """They never leave the process."""
    port, seen = server
    with pytest.raises(Reject):
        await Fetcher(frozenset({"127.0.0.1"})).fetch({"url": f"http://127.0.0.1:{port}/", "headers": headers})
    assert seen == []
