"""The connection to Redis, when somebody else answers."""

import asyncio
import socket
import time

import pytest

from services.ratelimit.store.connection import connect


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n+OK\r\n"])
async def test_who_is_not_redis_is_not_listened_to(said: bytes):
    """The connection closes, and whoever still waits hears that there will be no reply."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        # Until the other side leaves.
        await reader.read()
        writer.close()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = await connect(f"redis://127.0.0.1:{port}", timeout_seconds=5)
    asked = connection.ask("PING")
    async with asyncio.timeout(20):
        await connection.closed
        await left.wait()
    if said.startswith(b"HTTP"):
        with pytest.raises(ConnectionError):
            await asked
    else:
        assert await asked == b"OK"
    server.close()
    await server.wait_closed()


async def test_only_its_own_silence_is_redis():
    """Nobody has answered: that is silence. An answer that is not read yet ends it, and so does reading it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = await connect(f"redis://127.0.0.1:{listener.getsockname()[1]}", timeout_seconds=5)
        redis, _ = listener.accept()
        asked_at = time.monotonic()
        asked = [connection.ask("PING") for _ in range(2)]
        time.sleep(0.5)  # noqa: ASYNC251 - this process is busy
        assert connection.silent_seconds > 0
        redis.sendall(b"+OK\r\n")
        until = time.monotonic() + 10
        while connection.silent_seconds:
            assert time.monotonic() < until, "an answer that was sent does not arrive"
        await asked[0]
        # What came before the reading is forgotten, and that was half a second.
        assert connection.silent_seconds <= time.monotonic() - asked_at - 0.5
        redis.sendall(b"+OK\r\n")
        await asked[1]
        assert connection.silent_seconds == 0
        connection.close()
        redis.close()
