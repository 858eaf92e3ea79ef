"""Requests at the same time, over real processes: held while answers go on, free again however they end."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.integration.gateway.limited import Limited, limited
from tests.support.client import Client, client
from tests.support.rpc import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.timeout(180)]

CHATS = {
    "/api/v1/chat/stream": {"message": "Hi"},
    "/v1/chat/completions": {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
}
PLACES = 5
LEASE_SECONDS = 10


# As in the built-in rules but for the lease, so that a test need not wait for that long.
SHORT = """\
version: 1
classes:
  v1.chat:
    - {{ name: v1_chat_in_flight, algorithm: concurrency, per: user, limit: 5, lease: {lease}s }}
  v1.default:
    - {{ name: v1_default, algorithm: sliding_window, per: user, limit: 100, window: 1m }}
  openai.chat: v1.chat
  aios.default: v1.default
  aios.sockets:
    - {{ name: aios_open_sockets, algorithm: concurrency, per: user, limit: 4, lease: {lease}s }}
"""


@pytest.fixture
def lease_seconds() -> int:
    """Of the rules that the test runs with."""
    return LEASE_SECONDS


@pytest.fixture
async def mesh(gateway_database_url: str, redis_url: str, lease_seconds: int, tmp_path: Path) -> AsyncIterator[Limited]:
    rules = None
    if lease_seconds != LEASE_SECONDS:
        rules = tmp_path / "rules.yaml"
        rules.write_text(SHORT.format(lease=lease_seconds))
    async with limited(gateway_database_url, redis_url, rules) as made:
        yield made


@pytest.fixture
async def user(mesh: Limited) -> AsyncIterator[Client]:
    async with client(mesh.urls[0]) as made:
        await made.sign_up()
        yield made


class Streams:
    """Chats whose answers have begun."""

    def __init__(self, session: aiohttp.ClientSession, token: str) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"}
        self.open: list[aiohttp.ClientResponse] = []

    async def begin(self, url: str, path: str = "/api/v1/chat/stream") -> aiohttp.ClientResponse:
        """Asks; returns with the head of the answer."""
        response = await self._session.post(url + path, json=CHATS[path], headers=self._headers)
        if response.status == 200:
            self.open.append(response)
        return response

    async def until_let_in(self, url: str, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while (await self.begin(url)).status != 200:
                await asyncio.sleep(0.1)


@pytest.fixture
async def streams(user: Client) -> AsyncIterator[Streams]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        yield Streams(session, user.token)


async def test_five_chats_of_a_user_and_no_sixth(mesh: Limited, streams: Streams):
    """Whatever dialect they speak, and the sixth is told which rule; a client that leaves makes room for one."""
    url = mesh.urls[0]
    paths = [*CHATS] * 3
    for path in paths[:PLACES]:
        assert (await streams.begin(url, path)).status == 200
    for path in CHATS:
        refused = await streams.begin(url, path)
        assert (refused.status, refused.headers["x-ratelimit-rule"]) == (429, "v1_chat_in_flight")
        assert '"v1_chat_in_flight";q=5;qu="concurrent-requests"' in refused.headers["ratelimit-policy"]
        assert "retry-after" not in refused.headers
    streams.open.pop(0).close()
    await eventually(lambda: mesh.slow.left == 1, 10)
    await streams.until_let_in(url, 8)
    assert (await streams.begin(url)).status == 429


@pytest.mark.parametrize("lease_seconds", [2, pytest.param(LEASE_SECONDS, marks=pytest.mark.long)])
async def test_a_gateway_that_is_killed_leaves_nothing_taken(mesh: Limited, streams: Streams, lease_seconds: int):
    """Killed with -9: its places are free within one lease, at another gateway; a stream that goes on keeps its own."""
    other = await mesh.add_gateway()
    for _ in range(PLACES - 1):
        await streams.begin(mesh.urls[0])
    kept = await streams.begin(other)
    assert (await streams.begin(other)).status == 429
    mesh.gateways[0].kill()
    await mesh.gateways[0].wait()
    await streams.until_let_in(other, lease_seconds + 5)
    # By now the stream that was kept is older than a lease; it was renewed, so four of five are free.
    for _ in range(PLACES - 2):
        await streams.until_let_in(other, 20)
    assert (await streams.begin(other)).status == 429
    mesh.slow.on.set()
    assert b'"finish":true' in await kept.read()


async def test_a_gateway_that_ends_gives_everything_back(mesh: Limited, streams: Streams):
    """SIGTERM, with streams that do not end in time: their places are free at once, not only after a lease."""
    other = await mesh.add_gateway()
    for _ in range(PLACES):
        await streams.begin(mesh.urls[0])
    mesh.gateways[0].terminate()
    await mesh.gateways[0].wait()
    await streams.until_let_in(other, LEASE_SECONDS / 2)


@pytest.mark.parametrize("lease_seconds", [2])
async def test_a_limiter_that_is_killed_lets_no_sixth_chat_in(
    mesh: Limited, user: Client, streams: Streams, lease_seconds: int
):
    """Killed with -9 while nobody reads five answers: asked on and on, before it is back and after, five stay five."""
    url, ((address, limiter),) = mesh.urls[0], mesh.limiters.items()
    for path in [*CHATS] * 2 + [*CHATS][:1]:
        assert (await streams.begin(url, path)).status == 200
    limiter.kill()
    await limiter.wait()
    assert {(await streams.begin(url, path)).status for path in [*CHATS] * 15} == {429}
    streams.open.pop().close()
    await streams.until_let_in(url, 20)
    await mesh.start_limiter(address)
    async with asyncio.timeout(60):
        while "x-ratelimit-degraded" in (await user.get("/api/v1/agents")).headers:
            assert (await streams.begin(url)).status == 429
    # For longer than a lease: the one that was let in meanwhile is not forgotten, though the limiter never heard of it.
    until = time.monotonic() + 1.5 * lease_seconds
    while time.monotonic() < until:
        assert (await streams.begin(url)).status == 429
    assert mesh.slow.begun - mesh.slow.left == PLACES


async def test_twenty_submissions_of_a_user(mesh: Limited, user: Client):
    """The twenty-first waits for one of them to end, and those that are let in succeed."""
    body = {"task_type": "automation", "payload": {}}
    under_way = [asyncio.create_task(user.post("/api/v1/tasks", body)) for _ in range(20)]
    await eventually(lambda: mesh.slow.begun == 20, 20)
    refused = await user.post("/api/v1/tasks", body)
    assert (refused.status, refused.headers["x-ratelimit-rule"]) == (429, "v1_task_submit_in_flight")
    mesh.slow.on.set()
    assert {answer.status for answer in await asyncio.gather(*under_way)} == {201}
    assert (await user.post("/api/v1/tasks", body)).status == 201


@pytest.mark.parametrize("lease_seconds", [2])
async def test_a_users_sockets_count_in_all_gateways_together(mesh: Limited, user: Client):
    """Each holds its place from its handshake until it closes."""
    urls = [mesh.urls[0], await mesh.add_gateway()]
    async with aiohttp.ClientSession() as session:

        async def connect(url: str) -> aiohttp.ClientWebSocketResponse:
            return await session.ws_connect(f"{url}/api/ws/{user.user['id']}?token={user.token}")

        sockets = [await connect(url) for url in urls * 2]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await connect(urls[1])
        assert refusal.value.status == 429
        await sockets[0].close()
        async with asyncio.timeout(30):
            while True:
                try:
                    await connect(urls[1])
                    break
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.1)
