"""How servers end: with handshakes under way, with calls of clients that are gone, and under load."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from chassis.rpc.http2.call import Call
from chassis.rpc.http2.server import Server

SERVICE = "test.Ends"


class Serving:
    """Servers whose handlers count."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.begun = asyncio.Event()
        self.given_up = asyncio.Event()
        self.answered = 0
        self.cleaned = False

    async def listen(self, port: int = 0) -> tuple[Server, int]:
        """One more server, maybe at the port of another."""
        server = Server(max_message_bytes=1024)
        self.servers.append(server)
        handlers: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Slow": grpc.unary_unary_rpc_method_handler(self.slow),
        }
        server.add_registered_method_handlers(SERVICE, handlers)
        server.answer_together(f"/{SERVICE}/Together", self.together)
        return server, await server.listen("127.0.0.1", port, reuse_port=True)

    async def echo(self, request: bytes, context: Any) -> bytes:
        del context
        await asyncio.sleep(0.001)
        self.answered += 1
        return request

    async def together(self, calls: Sequence[Call]) -> list[bytes]:
        await asyncio.sleep(0.001)
        self.answered += len(calls)
        return [call.only_message() for call in calls]

    async def slow(self, request: bytes, context: Any) -> bytes:
        del context
        self.begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.given_up.set()
            await asyncio.sleep(0.1)
            self.cleaned = True
        return request


def channel_to(port: int) -> Any:
    """A client, of messages that are bytes."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    made = Serving()
    yield made
    for server in made.servers:
        await server.stop(None)


async def test_a_handshake_under_way_holds_up_no_end():
    """A client that never finishes TLS's handshake is no call to wait for."""
    server = Server(max_message_bytes=1024)
    port = await server.listen("127.0.0.1", 0, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    # Another that is refused for its noise shows that the first has been accepted too.
    reader, noisy = await asyncio.open_connection("127.0.0.1", port)
    noisy.write(b"noise" * 10)
    async with asyncio.timeout(10):
        await reader.read()
        await server.stop(60)
    writer.close()
    noisy.close()


async def test_a_server_that_has_stopped_runs_nothing_any_more(serving: Serving):
    """The handler of a client that has gone cleans up before the stop returns."""
    server, port = await serving.listen()
    async with channel_to(port) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Slow")(b"")
        async with asyncio.timeout(10):
            await serving.begun.wait()
            call.cancel()
            await serving.given_up.wait()
    await server.stop(None)
    assert serving.cleaned


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("method", ["Echo", "Together"])
async def test_no_call_is_lost_between_two_servers(serving: Serving, method: str, rounds: int):
    """While servers of a port follow each other, each call is answered once."""
    _, port = await serving.listen()
    asked = 0
    stopped = asyncio.Event()
    async with channel_to(port) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/{method}")

        async def load() -> None:
            nonlocal asked
            while not stopped.is_set():
                assert await ask(b"x", wait_for_ready=True, timeout=20) == b"x"
                asked += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(load())
            for _ in range(rounds):
                await serving.listen(port)
                await asyncio.sleep(0.01)
                await serving.servers.pop(0).stop(10)
            stopped.set()
    assert asked == serving.answered > rounds


async def test_more_calls_than_streams_are_all_answered(serving: Serving):
    """Two thousand calls at once of one client wait for each other."""
    _, port = await serving.listen()
    async with channel_to(port) as channel:
        asks = [channel.unary_unary(f"/{SERVICE}/{method}") for method in ("Echo", "Together")]
        answers = await asyncio.gather(*(asks[n % 2](b"%d" % n) for n in range(2000)))
    assert answers == [b"%d" % n for n in range(2000)]
