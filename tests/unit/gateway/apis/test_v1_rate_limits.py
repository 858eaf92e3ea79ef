"""Rules, limits and usage over the native API."""

from typing import Any

import orjson
import pytest
import yaml

from tests.unit.gateway.apis.fake_ratelimit import RULES
from tests.unit.gateway.apis.world import ADMIN, OTHER, USER, Answer, World

PATH = "/api/v1/rate-limits"
YAML = {"content-type": "application/yaml; charset=utf-8"}
OTHERS = "version: 1\nclasses:\n  chat: []\n"


async def put(world: World, body: Any, who: str = "admin", **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.ask("PUT", PATH, body, who=who, headers=given)


async def test_a_user_sees_the_limits_that_apply_to_him(world: World):
    """And not the rules, which name other callers."""
    answer = await world.ask("GET", PATH)
    assert answer.headers["etag"] == '"00000000000000ff"'
    assert answer.json == {
        "generation": "00000000000000ff",
        "origin": "file",
        "limits": {
            "v1.chat": [
                {"rule": "minute", "limit": 10, "window_seconds": 60, "concurrent": False},
                {"rule": "flight", "limit": 5, "window_seconds": 10, "concurrent": True},
            ]
        },
        "rules": None,
        "source": None,
        "problem": None,
    }
    assert (world.ratelimit.asked[0].user, world.ratelimit.asked[0].role) == (USER.user_id, "user")


async def test_an_administrator_sees_the_rules(world: World):
    """As JSON, where a shared rule is named when it stands again; as text; and what is wrong with the file."""
    world.ratelimit.problem = "limits.yaml:3: no"
    shown = (await world.ask("GET", PATH, who="admin")).json
    assert (shown["source"], shown["problem"]) == (RULES, "limits.yaml:3: no")
    chat = shown["rules"]["classes"]["v1.chat"]
    assert (chat[0]["limit"], chat[0]["per"], chat[1]["shadow"]) == ({"default": 10, "admin": 2000}, ["user"], True)
    assert shown["rules"]["classes"] | {"v1.chat": []} == {
        "v1.chat": [],
        "openai.chat": ["flight"],
        "v1.default": "v1.chat",
    }
    assert shown["rules"]["overrides"] == {"user": {"42": {"minute": "unlimited"}}}


async def test_rules_are_put_as_yaml_and_as_json(world: World):
    """The text goes on as it came, so that lines of errors are the sender's; tabs of JSON are spaces."""
    answer = await put(world, OTHERS.encode(), **YAML)
    assert (answer.status, answer.headers["etag"], answer.json) == (
        200,
        '"0000000000000100"',
        {"generation": "0000000000000100"},
    )
    assert world.ratelimit.source == OTHERS
    assert (await put(world, b'{\t"version": 1,\n\t"classes": {"a\\tb": []}}')).status == 200
    assert world.ratelimit.source == '{ "version": 1,\n "classes": {"a\\U00000009b": []}}'
    shown = (await world.ask("GET", PATH, who="admin")).json
    assert (shown["origin"], shown["rules"]) == ("api", {"version": 1, "classes": {"a\tb": []}})


@pytest.mark.parametrize(
    "text",
    [
        '"a\u2028b"',
        '"a\u0085\u00a0\ufeff\ufffe\x7fb"',
        r'"\ud83d\ude00"',
        r'"a\/b\"c\\"',
        r'"\\U0001f600 \\x41"',
        '"😀 ü \u3000"',
        '"a: b # c {d, [e]}"',
    ],
)
async def test_json_means_what_json_means(world: World, text: str):
    """Characters and escapes that YAML reads otherwise, or refuses, arrive as they were meant."""
    body = '{"version":1,"classes":{' + text + ":[" + text + "]}}"
    assert (await put(world, body.encode())).status == 200
    assert yaml.safe_load(world.ratelimit.source) == orjson.loads(body)


async def test_what_is_shown_may_be_put(world: World):
    """Read as JSON, changed, sent back."""
    rules = (await world.ask("GET", PATH, who="admin")).json["rules"]
    assert (await put(world, rules)).status == 200
    assert yaml.safe_load(world.ratelimit.source) == orjson.loads(orjson.dumps(rules))


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        ('"00000000000000ff"', 200),
        ('"0", "00000000000000ff"', 200),
        ("*", 200),
        ('"00000000000000fe"', 412),
        ('W/"00000000000000ff"', 412),
        ("00000000000000ff", 412),
        ("", 412),
    ],
)
async def test_only_the_rules_that_were_read_are_replaced(world: World, tag: str, status: int):
    """If-Match compares strongly; 412 changes nothing."""
    answer = await put(world, OTHERS.encode(), **YAML, if_match=tag)
    assert answer.status == status
    assert world.ratelimit.origin == ("api" if status == 200 else "file")
    if status == 412:
        assert answer.json["error"]["code"] == "RULES_CHANGED"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "line"),
    [
        (b"version: 1", YAML, 400, "BAD_RULES", "1"),
        (b"version: 1\n# \xff", YAML, 400, "BAD_RULES", "2"),
        (b"", YAML, 400, "BAD_RULES", "1"),
        (b"{", {}, 400, "INVALID_JSON", None),
        (b'{"version": 1}', {}, 400, "BAD_RULES", "1"),
        (OTHERS.encode(), {"content-type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE", None),
        (OTHERS.encode(), {"content-type": ""}, 415, "UNSUPPORTED_MEDIA_TYPE", None),
    ],
)
async def test_a_wrong_text_is_refused_with_its_line(world: World, body, headers, status, code, line):  # noqa: PLR0917 - a table
    """Line and reason are in the details."""
    answer = await put(world, body, **headers)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert answer.json["error"]["details"].get("line") == line
    assert world.ratelimit.source == RULES


async def test_only_administrators_put_rules(world: World):
    """403, and nothing is changed."""
    answer = await put(world, OTHERS.encode(), who="user", **YAML)
    assert (answer.status, world.ratelimit.source) == (403, RULES)


async def test_usage_is_the_callers_own(world: World):
    """All classes or one, with what is left and when it is all there again."""
    answer = (await world.ask("GET", f"{PATH}/usage?route_class=v1.chat")).json
    assert (answer["user"], answer["api_key"], answer["degraded"]) == (USER.user_id, None, False)
    (chat,) = answer["classes"]
    assert chat["route_class"] == "v1.chat"
    assert chat["buckets"][0] == {
        "rule": "minute",
        "limit": 10,
        "window_seconds": 60,
        "concurrent": False,
        "remaining": 9,
        "reset_after_seconds": 59.001,
    }
    assert world.ratelimit.asked[0].route_class == "v1.chat"
    unknown = await world.ask("GET", f"{PATH}/usage?route_class=moon")
    assert (unknown.status, unknown.json["error"]["details"]["field"]) == (400, "route_class")


async def test_a_user_sees_usage_of_his_own_keys(world: World):
    """Of nobody else's, and of no other user."""
    key_id = (await world.ask("POST", "/api/v1/keys", {"name": "ci"})).json["id"]
    assert (await world.ask("GET", f"{PATH}/usage?api_key={key_id}")).json["api_key"] == key_id
    assert (await world.ask("GET", f"{PATH}/usage?user={USER.user_id}")).status == 200
    assert (await world.ask("GET", f"{PATH}/usage?api_key={key_id}", who="other")).status == 404
    assert (await world.ask("GET", f"{PATH}/usage?user={OTHER.user_id}")).status == 403


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"user={USER.user_id}", (USER.user_id, "user", "", "")),
        (f"user={ADMIN.user_id}&api_key=k1", (ADMIN.user_id, "admin", "k1", "")),
        ("api_key=k1", ("", "", "k1", "")),
        ("user=192.0.2.7", ("192.0.2.7", "anonymous", "", "192.0.2.7")),
    ],
)
async def test_an_administrator_sees_anyones_usage(world: World, query: str, expected: tuple[str, ...]):
    """Of users with their role, of keys, and of guests by their address."""
    assert (await world.ask("GET", f"{PATH}/usage?{query}", who="admin")).status == 200
    subject = world.ratelimit.asked[-1]
    assert (subject.user, subject.role, subject.api_key, subject.ip) == expected


async def test_an_unknown_user_is_not_found(world: World):
    """For an administrator who names one."""
    unknown = "99999999-1111-7111-8111-111111111111"
    assert (await world.ask("GET", f"{PATH}/usage?user={unknown}", who="admin")).status == 404
