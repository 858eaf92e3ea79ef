"""The gateway as a process, with Postgres and with nobody else: what it still does alone, and how it ends."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest

from deploy.local.ports import free_port
from tests.support.client import Client, client

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
SECRET = "0123456789abcdef0123456789abcdef"
ADMIN = ("root", "correct horse battery")


class Gateway:
    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def until_ready(self) -> None:
        async with client(self.url) as asking:
            while True:
                try:
                    if (await asking.get("/readyz")).status == 200:
                        return
                except OSError:
                    assert self.process.returncode is None, "the gateway ended"
                await asyncio.sleep(0.05)


@pytest.fixture
async def gateway(gateway_database_url: str) -> AsyncIterator[Gateway]:
    port = free_port()
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
        "DATABASE_URL": gateway_database_url,
        # Nobody listens there: the gateway starts without its broker and its peers.
        "AMQP_URL": f"amqp://guest:guest@127.0.0.1:{free_port()}/",
        "JWT_SECRET": SECRET,
        "ADMIN_USERNAME": ADMIN[0],
        "ADMIN_PASSWORD": ADMIN[1],
        "MESH_HTTP_PORT": str(port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway", cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    started = Gateway(process, f"http://127.0.0.1:{port}")
    try:
        await started.until_ready()
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def user(gateway: Gateway) -> AsyncIterator[Client]:
    async with client(gateway.url) as made:
        await made.sign_up()
        yield made


async def test_accounts_work_alone(user: Client):
    """Register, log in, me, key, and the key in the token's place; limits are degraded and say so."""
    made = await user.post("/api/v1/keys", {"name": "laptop"})
    assert made.status == 201, made
    user.token = ""
    assert (await user.get("/api/auth/me")).status == 401
    me = await user.get("/api/auth/me", headers={"X-API-Key": made.body["key"]})
    assert (me.status, me.body["username"]) == (200, user.user["username"])
    assert me.headers["x-ratelimit-degraded"] == "true"


async def test_the_first_admin_can_log_in(gateway: Gateway):
    """The account of the settings is there, and is an administrator."""
    async with client(gateway.url) as admin:
        await admin.login(*ADMIN)
        assert admin.user["is_admin"] is True


async def test_bad_tokens_are_401_in_the_dialect(user: Client):
    """Forged, of another algorithm, unsigned, cut off, expired: each is refused with the dialect's body."""
    claims = jwt.decode(user.token, options={"verify_signature": False})
    at = {"typ": "at+jwt"}
    zoo = [
        jwt.encode(claims, "f" * 32, "HS256", headers=at),
        jwt.encode(claims, "", "none", headers=at),
        jwt.encode(claims, SECRET * 2, "HS512", headers=at),
        jwt.encode(claims | {"exp": 1}, SECRET, "HS256", headers=at),
        jwt.encode(claims | {"aud": "other"}, SECRET, "HS256", headers=at),
        jwt.encode(claims | {"sub": "not a uuid"}, SECRET, "HS256", headers=at),
        jwt.encode(claims | {"sid": "\0"}, SECRET, "HS256", headers=at),
        user.token[:-4],
        "amk_012345678901_012345678901234567890123456789_000000",
    ]
    for user.token in zoo:
        for path, key in (("/api/auth/me", "detail"), ("/v1/models", "error"), ("/api/v1/models", "success")):
            answer = await user.get(path)
            assert (answer.status, key in answer.body) == (401, True), (user.token, answer)


async def test_peers_away_are_503(user: Client):
    """What needs another service says that it is away, never 500."""
    answer = await user.post("/api/v1/chat", {"message": "hi"})
    assert (answer.status, answer.body["success"]) == (503, False)


async def test_told_to_end_it_ends_well(gateway: Gateway):
    """SIGTERM: exit code 0, and the port is free."""
    gateway.process.send_signal(signal.SIGTERM)
    assert await gateway.process.wait() == 0
    with pytest.raises(OSError):
        await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
