"""Whatever a client sends, it gets its dialect's 4xx: never a 5xx, never a stack trace."""

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from tests.support.client import Answer, Client, client
from tests.support.generous import write_rules
from tests.support.mesh import Mesh, throw_away_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(900)]

CHAT, COMPLETIONS, TASKS, REGISTER = "/api/v1/chat", "/v1/chat/completions", "/api/v1/tasks", "/api/auth/register"
POSTS = (CHAT, COMPLETIONS, TASKS, "/api/agents", "/api/execute", REGISTER, "/api/v1/keys", "/api/v1/chat/stream")
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
BODIES = {
    "not JSON": b"{",
    "not UTF-8": b'{"message": "\xff\xfe"}',
    "an array": b"[]",
    "a number": b"1",
    "null": b"null",
    "empty": b"",
    "no fields": b"{}",
    "NaN": b'{"message": NaN}',
    "deep": DEEP.encode(),
    "large": json.dumps({"message": "x" * 3_000_000}).encode(),
    "wrong types": b'{"message": {}, "messages": 1, "task_type": [], "payload": "x", "name": 7, "agent_ids": "x"}',
    "NUL": b'{"message": "a\\u0000b", "model": "\\u0000", "task_type": "\\u0000", "name": "\\u0000"}',
    "lone surrogate": b'{"message": "\\ud800", "model": "\\udfff", "task_type": "\\ud800", "name": "\\ud800"}',
    "huge number": b'{"message": "x", "temperature": 1e999, "max_tokens": 99999999999999999999999999}',
}
SECRETS = ("Traceback", "asyncpg", "sqlalchemy", "grpc.", 'File "', "127.0.0.1:", "SELECT ")


@pytest.fixture(scope="module")
def open_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh of its own: fuzzing would meet the limits before anything else."""
    rules = write_rules(tmp_path_factory.mktemp("rules") / "rules.yaml")
    with throw_away_mesh(MESH_RATE_LIMITS_FILE=str(rules)) as running:
        yield running


@pytest.fixture
async def admin(open_mesh: Mesh) -> AsyncIterator[Client]:
    async with client(open_mesh.url) as made:
        await made.login(open_mesh.env["ADMIN_USERNAME"], open_mesh.env["ADMIN_PASSWORD"])
        yield made


def check(answer: Answer, *statuses: int) -> None:
    """A client error in JSON that gives nothing away."""
    assert answer.status in (statuses or range(400, 500)), answer
    assert isinstance(answer.body, dict), answer
    assert not [word for word in SECRETS if word in json.dumps(answer.body)], answer


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("path", POSTS)
async def test_bad_bodies(admin: Client, path: str, body: str):
    """Malformed, oversized, deep and mistyped bodies are the client's error on every route."""
    if path == "/api/execute" and body in ("no fields", "empty", "null"):
        pytest.skip("every field of it is optional")
    answer = await admin.call("POST", path, data=io.BytesIO(BODIES[body]), headers={"Content-Type": "application/json"})
    check(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("PATCH", TASKS, 405),
        ("DELETE", COMPLETIONS, 405),
        ("GET", f"{TASKS}/task_01J00000000000000000000000", 404),
        ("GET", f"{TASKS}/'; DROP TABLE tasks; --", 404),
        ("GET", f"{TASKS}/%00", 404),
        ("GET", f"{TASKS}/%ff%fe", 404),
        ("GET", "/api/agents/00000000-0000-0000-0000-000000000000", 404),
        ("GET", "/api/agents/<script>alert(1)</script>", 404),
        ("GET", "/v1/models/none", 404),
    ],
)
async def test_bad_addresses(admin: Client, method: str, path: str, status: int):
    """Unknown routes, methods and ids are told apart, in JSON."""
    check(await admin.call(method, path), status)


async def test_foreign_ids_do_not_exist(admin: Client, open_mesh: Mesh):
    """What belongs to somebody else looks as if it were not there."""
    task = await admin.submit("automation", {"action": "test"})
    async with client(open_mesh.url) as stranger:
        await stranger.sign_up()
        check(await stranger.get(f"{TASKS}/{task}"), 404)
        check(await stranger.get(f"{TASKS}/{task}/result"), 404)
        check(await stranger.call("DELETE", f"{TASKS}/{task}"), 404)
        check(await stranger.post("/api/agents", {"name": "x", "role": "y", "description": "z"}), 403)


def _forged(token: str, **changes: Any) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode({**claims, **changes}, "a key that is long enough but not ours.", algorithm="HS256")


def _unsigned(token: str) -> str:
    _, claims, _ = token.split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    return f"{head}.{claims}."


async def test_bad_tokens(admin: Client):
    """Expired, forged, unsigned, cut and invented credentials are all 401."""
    good = admin.token
    bad = [
        _forged(good), _forged(good, exp=int(time.time()) - 1), _unsigned(good), good[:-4], good + "x", "x", "a.b.c",
        "amk_000000000000_0000_000000", "é", "",
    ]  # fmt: skip
    for token in bad:
        admin.token = token
        for path in ("/api/auth/me", TASKS, "/v1/models"):
            answer = await admin.get(path)
            check(answer, 401)
            assert "www-authenticate" in answer.headers


async def test_texts_are_only_text(admin: Client):
    """SQL and script go in and come out as they are."""
    nasty = "'; DROP TABLE tasks.task; -- <script>alert(1)</script> {{7*7}} ${jndi:x} \\ \" \u202e"
    answer = await admin.post(CHAT, {"message": nasty})
    assert answer.status == 200
    assert nasty.split(maxsplit=1)[0] in answer.body["response"]
    task = await admin.submit("sentiment_analysis", {"text": nasty})
    assert (await admin.finished(task))["status"] == "completed"


async def test_sockets_need_their_owner(admin: Client, open_mesh: Mesh):
    """A live feed opens only for its own user."""
    async with aiohttp.ClientSession() as session, client(open_mesh.url) as stranger:
        await stranger.sign_up()
        for user, token in ((admin.user["id"], stranger.token), (admin.user["id"], ""), ("x", stranger.token)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await session.ws_connect(f"{open_mesh.url}/api/ws/{user}", headers={"Authorization": f"Bearer {token}"})
            assert 400 <= refusal.value.status < 500


async def test_half_a_request(open_mesh: Mesh):
    """A client that leaves in the middle of its body hurts nobody."""
    host, port = open_mesh.url.removeprefix("http://").split(":")
    for _ in range(50):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        writer.close()
    async with client(open_mesh.url) as stranger:
        assert (await stranger.get("/livez")).status == 200


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.long)])
def test_schemathesis_finds_no_server_error(admin_token: str, open_mesh: Mesh, tmp_path: Path, examples: int):
    """Generated from the OpenAPI document: every operation but the one that ends the token, valid and invalid data, no
    5xx, and none that hears of nothing but its credential.
    """
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{open_mesh.url}/openapi.json",
        "--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples),
        "--header", f"Authorization: Bearer {admin_token}", "--seed", "1", "--continue-on-failure",
        "--exclude-path", "/api/auth/logout",
    ]  # fmt: skip
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "Authentication failed" not in run.stdout, run.stdout[-6000:]


@pytest.fixture
def admin_token(open_mesh: Mesh) -> str:
    async def login() -> str:
        async with client(open_mesh.url) as made:
            await made.login(open_mesh.env["ADMIN_USERNAME"], open_mesh.env["ADMIN_PASSWORD"])
            return made.token

    return asyncio.run(login())
