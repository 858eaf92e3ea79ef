"""Rules over HTTP, with two limiters behind the gateway: raised and lowered while callers wait, refused when wrong."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.gateway.limited import ADMIN, limited
from tests.support.client import Answer, Client, client

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.timeout(180)]

PATH = "/api/v1/rate-limits"
# A second is promised; a busy machine is given time besides.
PROMISED_SECONDS = 5.0


def rules(limit: str) -> str:
    return (
        "version: 1\nclasses:\n  v1.default:\n    - { name: calls, algorithm: sliding_window, per: user,"
        f" limit: {{ default: {limit}, admin: 1000 }}, window: 1h }}\n"
        "  aios.default:\n    - { name: accounts, algorithm: fixed_window, per: user, limit: 1000, window: 1m }\n"
    )


@pytest.fixture
async def people(gateway_database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[Client, Client]]:
    """A user and an administrator."""
    path = tmp_path / "limits.yaml"
    path.write_text(rules("3"))
    async with (
        limited(gateway_database_url, redis_url, path, limiters=2) as mesh,
        client(mesh.urls[0]) as user,
        client(mesh.urls[0]) as admin,
    ):
        await user.sign_up()
        await admin.login(*ADMIN)
        yield user, admin


async def put(admin: Client, text: str, **headers: str) -> Answer:
    return await admin.call("PUT", PATH, data=text, headers={"Content-Type": "application/yaml", **headers})


async def until(user: Client, status: int) -> Answer:
    """The first answer with that status. Those that are refused count nowhere."""
    try:
        async with asyncio.timeout(PROMISED_SECONDS):
            while (answer := await user.get("/api/v1/keys")).status != status:
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"no {status} within {PROMISED_SECONDS} s of the change of the rules")
    return answer


async def test_a_raised_limit_lets_pass_and_a_lowered_one_denies(people: tuple[Client, Client]):
    """Who was denied passes within a second, and what he has used stays used."""
    user, admin = people
    found = [await user.get("/api/v1/keys") for _ in range(4)]
    assert [one.status for one in found] == [200, 200, 200, 429]
    assert (await put(admin, rules("5"))).status == 200
    assert (await until(user, 200)).headers["x-ratelimit-remaining"] == "1"
    path = f"{PATH}/usage?user={user.user['id']}&route_class=v1.default"
    usage = await admin.until(path, lambda body: body["classes"][0]["buckets"][0]["limit"] == 5)
    assert usage.body["classes"][0]["buckets"][0]["remaining"] == 1
    assert (await put(admin, rules("1000"))).status == 200
    assert (await until(user, 200)).headers["x-ratelimit-limit"] == "1000"
    assert (await put(admin, rules("6"))).status == 200
    assert (await until(user, 429)).headers["x-ratelimit-limit"] == "6"


async def test_rules_are_shown_put_and_refused(people: tuple[Client, Client]):
    """With their ETag; a wrong text with its line; a user sees his limits and no rules."""
    user, admin = people
    shown = await admin.get(PATH)
    assert (shown.body["source"], shown.body["origin"], shown.body["problem"]) == (rules("3"), "file", "")
    assert shown.body["rules"]["classes"]["v1.default"][0]["limit"] == {"default": 3, "admin": 1000}
    wrong = await put(admin, rules("0"))
    assert (wrong.status, wrong.body["error"]["code"], wrong.body["error"]["details"]) == (
        400,
        "BAD_RULES",
        {"line": "4", "reason": "limit of default must be between 1 and 1000000000000, not 0"},
    )
    assert (await put(admin, rules("4"), **{"If-Match": '"another"'})).status == 412
    changed = await put(admin, rules("4"), **{"If-Match": shown.headers["etag"]})
    assert changed.status == 200
    assert changed.headers["etag"] == f'"{changed.body["generation"]}"' != shown.headers["etag"]
    assert (await put(admin, rules("5"), **{"If-Match": shown.headers["etag"]})).status == 412
    assert (await put(user, rules("9"))).status == 403
    await admin.until(PATH, lambda body: body["generation"] == changed.body["generation"])
    own = await user.get(PATH)
    assert (own.body["rules"], own.body["source"]) == (None, None)
    assert [one["rule"] for one in own.body["limits"]["v1.default"]] == ["calls"]
