"""Limits over real processes: headers and refusals in every dialect, retries, tokens, and what costs no call."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from http_sf import parse

from tests.integration.gateway.limited import Limited, limited
from tests.support.client import Answer, Client, client

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.timeout(180)]

RULE = "    - {{ name: {name}, algorithm: {algorithm}, per: user, limit: {limit}, window: {window} }}\n"
# Route classes, and a path of each that anybody may ask for.
PATHS = {
    "v1.models": "/api/v1/models",
    "v1.tasks": "/api/v1/tasks",
    "v1.default": "/api/v1/agents",
    "openai.default": "/v1/models",
    "aios.default": "/api/agents",
}
CHAT = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}]}
SHAPES: dict[str, Callable[[Any], object]] = {
    "/api/v1/agents": lambda body: (body["success"], body["error"]["code"]) == (False, "RATE_LIMITED"),
    "/v1/models": lambda body: body["error"]["code"] == "rate_limit_exceeded",
    "/api/agents": lambda body: body["detail"] == "Rate limit exceeded" and body["retry_after"] >= 1,
}

Open = Callable[[str], AbstractAsyncContextManager[tuple[Limited, Client]]]


ALGORITHMS = ("sliding_window", "token_bucket", "fixed_window")


def rules(limit: int = 2, *windows: str, **limits: int) -> str:
    """A class with a rule of its own for each path, of every algorithm, and those of `limits` by the minute."""
    classes = [
        f"  {name}:\n" + RULE.format(name=name.replace(".", "_"), algorithm=algorithm, limit=limit, window=window)
        for name, algorithm, window in zip(PATHS, itertools.cycle(ALGORITHMS), itertools.cycle(windows or ("1s",)))
    ]
    for name, count in limits.items():
        rule = RULE.format(name=name, algorithm="sliding_window", limit=count, window="1m")
        classes.append(f"  {name.replace('_', '.')}:\n{rule}")
    return "version: 1\nclasses:\n" + "".join(classes)


@pytest.fixture
def running(gateway_database_url: str, redis_url: str, tmp_path: Path) -> Open:
    """Opens a gateway whose limiter has the given rules, in a file that may change, and a user."""

    @asynccontextmanager
    async def opened(text: str) -> AsyncIterator[tuple[Limited, Client]]:
        path = tmp_path / "rules.yaml"
        path.write_text(text)
        async with limited(gateway_database_url, redis_url, path) as mesh, client(mesh.urls[0]) as user:
            await user.sign_up()
            yield mesh, user

    return opened


async def refused(user: Client, path: str) -> Answer:
    """Asks until the limit says no."""
    async with asyncio.timeout(20):
        while (answer := await user.get(path)).status != 429:
            continue
    return answer


async def early(user: Client, path: str, rounds: int, at_once: asyncio.Semaphore) -> list[dict[str, str]]:
    """Is refused, waits for exactly as long as it was told, and asks again; the headers of those that were refused."""
    found = []
    for _ in range(rounds):
        # Were everybody to hurry, nobody would be fast enough to be refused.
        async with at_once:
            answer = await refused(user, path)
        await asyncio.sleep(int(answer.headers["retry-after"]))
        again = await user.get(path)
        if again.status == 429:
            found.append(again.headers)
    return found


def check_headers(answer: Answer, rule: str) -> None:
    """All names of one decision, and the draft's fields by a parser that is not ours."""
    headers = answer.headers
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-rule"]) == ("2", rule)
    assert abs(int(headers["x-ratelimit-reset"]) - time.time()) < 10
    policies: Any = parse(headers["ratelimit-policy"].encode(), tltype="list")
    states: Any = parse(headers["ratelimit"].encode(), tltype="list")
    assert policies == [(rule, {"q": 2, "w": 1})]
    assert (states[0][0], states[0][1]["r"]) == (rule, int(headers["x-ratelimit-remaining"]))
    if answer.status == 429:
        assert int(headers["retry-after"]) >= max(1, states[0][1]["t"])


async def test_every_dialect_says_what_was_decided(running: Open):
    """Answers and refusals alike carry the figures; refusals have their dialect's shape."""
    async with running(rules()) as (_, user):
        for route_class, path in PATHS.items():
            rule = route_class.replace(".", "_")
            check_headers(await user.get(path), rule)
            answer = await refused(user, path)
            check_headers(answer, rule)
            if path in SHAPES:
                assert SHAPES[path](answer.body), answer
            if path.startswith("/v1/"):
                assert answer.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize(
    ("users", "rounds", "windows"),
    [(1, 3, ("1s", "2s")), pytest.param(80, 25, ("2s", "3s"), marks=[pytest.mark.long, pytest.mark.timeout(600)])],
    ids=["short", "long"],
)
async def test_a_retry_at_the_told_time_passes(
    running: Open, tmp_path: Path, users: int, rounds: int, windows: tuple[str, str]
):
    """Under windows of several lengths and buckets, for whole seconds that were rounded up; at least 999 in 1000."""
    async with running(rules(1000)) as (mesh, user), AsyncExitStack() as stack:
        asking = [user]
        for _ in range(users - 1):
            asking.append(await stack.enter_async_context(client(mesh.urls[0])))
            await asking[-1].sign_up()
        (tmp_path / "rules.yaml").write_text(rules(1, *windows))
        async with asyncio.timeout(30):
            while (await user.get("/api/agents")).headers["x-ratelimit-limit"] != "1":
                await asyncio.sleep(0.05)
        at_once = asyncio.Semaphore(8)
        found = await asyncio.gather(*(early(one, path, rounds, at_once) for one in asking for path in PATHS.values()))
    too_early = [headers for some in found for headers in some]
    assert len(too_early) <= len(found) * rounds / 1000, too_early


async def test_a_hot_refused_key_costs_no_call_and_a_raised_limit_works_at_once(running: Open, tmp_path: Path):
    """The limiter hears of one refusal; other rules end it within a second or two."""
    async with running(rules(3, "1h")) as (mesh, user):
        path = PATHS["v1.models"]
        await refused(user, path)
        before = await mesh.decisions()
        assert {(await user.get(path)).status for _ in range(50)} == {429}
        # Others of the mesh may ask for themselves now and then.
        assert await mesh.decisions() - before <= 5
        (tmp_path / "rules.yaml").write_text(rules(1000, "1h"))
        async with asyncio.timeout(30):
            while (await user.get(path)).status == 429:
                await asyncio.sleep(0.05)


async def test_tokens_are_reserved_and_given_back(running: Open):
    """Two answers under way take all there is; refused, the third counts nowhere; when they end, the rest is back. A
    conversation that is submitted as a task takes of the same.
    """
    async with running(rules(limit=100, openai_tokens=2500)) as (mesh, user):
        url = "/v1/chat/completions"
        await until_counted(user, url)
        streams = [asyncio.create_task(user.post(url, {**CHAT, "stream": True})) for _ in range(2)]
        async with asyncio.timeout(20):
            while mesh.slow.begun < 2:
                await asyncio.sleep(0.01)
        third = await user.post(url, CHAT)
        assert (third.status, third.headers["x-ratelimit-rule"]) == (429, "openai_tokens")
        assert third.body["error"]["code"] == "rate_limit_exceeded"
        mesh.slow.on.set()
        await asyncio.gather(*streams)
        async with asyncio.timeout(30):
            while (after := await user.post(url, {**CHAT, "max_tokens": 1})).status == 429:
                await asyncio.sleep(0.05)
        # Each answer used 30 tokens of which all are known; this one has reserved what it may use.
        assert int(after.headers["x-ratelimit-remaining-tokens"]) > 2500 - 1100 - 30 * 10
        payload = {"message": "Hi", "max_tokens": 800}
        wish = {"task_type": "llm.chat", "payload": payload}
        assert [(await user.post("/api/v1/tasks", wish)).status for _ in range(4)][::3] == [201, 429]
        payload["max_tokens"] = 2500
        assert (await user.post("/api/v1/tasks", wish)).body["error"]["code"] == "TOKENS_BEYOND_LIMIT"


async def until_counted(user: Client, url: str) -> None:
    """Returns when the gateway knows that tokens are counted."""
    async with asyncio.timeout(30):
        while "x-ratelimit-limit-tokens" not in (await user.post(url, CHAT)).headers:
            await asyncio.sleep(0.05)
