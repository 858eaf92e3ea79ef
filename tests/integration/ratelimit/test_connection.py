"""The connection to Redis, when somebody else answers."""

import asyncio

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
    async with asyncio.timeout(5):
        await connection.closed
        await left.wait()
    if said.startswith(b"HTTP"):
        with pytest.raises(ConnectionError):
            await asked
    else:
        assert await asked == b"OK"
    server.close()
    await server.wait_closed()
