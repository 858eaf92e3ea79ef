from typing import Any

import pytest
from http_sf import parse
from mesh.ratelimit.v1 import ratelimit_pb2

from chassis.errors import DeadlineExceeded, Invalid, MeshError, Unavailable
from services.gateway.edge.limit_headers import duration
from tests.unit.gateway.edge.limiter import decision
from tests.unit.gateway.edge.world import World

TWO = [
    {"name": "v1_chat", "limit": 10, "remaining": 0, "window_seconds": 60, "reset_after_ms": 6001},
    {"name": "v1_user", "limit": 100, "remaining": 90, "window_seconds": 3600, "reset_after_ms": 360_000},
]


async def test_the_headers_of_an_answer():
    """All from the one decision: the tightest rule in the old names, every rule in the draft's."""
    world = World()
    world.limiter.answer = decision(rules=TWO)
    headers = (await world.ask()).headers
    now = world.clock.now().timestamp()
    assert headers["x-ratelimit-limit"] == "10"
    assert headers["x-ratelimit-remaining"] == "0"
    assert headers["x-ratelimit-reset"] == str(int(now) + 7)
    assert headers["x-ratelimit-rule"] == "v1_chat"
    assert headers["ratelimit-policy"] == '"v1_chat";q=10;w=60, "v1_user";q=100;w=3600'
    assert headers["ratelimit"] == '"v1_chat";r=0;t=7, "v1_user";r=90;t=360'
    assert "x-ratelimit-degraded" not in headers
    assert "x-ratelimit-limit-requests" not in headers


async def test_openai_paths_speak_its_names():
    """The OpenAI SDKs find what they look for."""
    world = World()
    world.limiter.answer = decision(rules=TWO, tightest=1)
    headers = (await world.ask("/v1/chat/completions")).headers
    assert headers["x-ratelimit-limit-requests"] == "100"
    assert headers["x-ratelimit-remaining-requests"] == "90"
    assert headers["x-ratelimit-reset-requests"] == "6m0s"


@pytest.mark.parametrize(
    "answer",
    [
        decision(rules=TWO),
        decision(rules=[{**TWO[0], "violated": True}, TWO[1]], allowed=False, retry_after_ms=1),
        decision(rules=[{**TWO[0], "violated": True}, TWO[1]], allowed=False, retry_after_ms=59_001),
        decision(rules=[{**TWO[0], "concurrent": True, "violated": True}, TWO[1]], allowed=False),
        decision(rules=[{**TWO[0], "name": 'a "quoted" \\name'}]),
    ],
)
async def test_the_fields_of_the_draft_are_structured(answer: ratelimit_pb2.Decision):
    """Lists of strings with the draft's parameters, by a parser that is not ours; no t is later than Retry-After."""
    world = World()
    world.limiter.answer = answer
    got = await world.ask()
    policies: Any = parse(got.headers["ratelimit-policy"].encode(), tltype="list")
    states: Any = parse(got.headers["ratelimit"].encode(), tltype="list")
    assert [name for name, _ in policies] == [name for name, _ in states] == [rule.name for rule in answer.rules]
    for rule, (_, policy), (_, state) in zip(answer.rules, policies, states, strict=True):
        window = {"qu": "concurrent-requests"} if rule.concurrent else {"w": rule.window_seconds}
        assert policy == {"q": rule.limit, **window}
        assert state["r"] == rule.remaining
        if answer.HasField("retry_after_ms"):
            assert state.get("t", 0) <= max(1, -(-answer.retry_after_ms // 1000))


async def test_openai_counts_requests_and_not_places():
    """Its limit of requests is one with a window, also when a place is what is missing."""
    world = World()
    places = {"name": "in_flight", "limit": 5, "violated": True, "concurrent": True}
    world.limiter.answer = decision(rules=[*TWO, places], allowed=False, tightest=2)
    headers = (await world.ask("/v1/chat/completions")).headers
    assert (headers["x-ratelimit-rule"], headers["x-ratelimit-limit-requests"]) == ("in_flight", "10")


async def test_no_rule_no_headers():
    """A class without rules says nothing of limits."""
    world = World()
    world.limiter.answer = ratelimit_pb2.Decision(allowed=True)
    assert not [name for name in (await world.ask()).headers if "ratelimit" in name]


async def test_degraded_decisions_say_so():
    """Decided from memory is still decided."""
    world = World()
    world.limiter.answer = decision(degraded=True)
    headers = (await world.ask()).headers
    assert (headers["x-ratelimit-degraded"], headers["x-ratelimit-limit"]) == ("true", "10")


async def test_what_no_rule_knows_is_not_limited():
    """A class that is in no rules file passes, and nothing was decided without anybody."""
    world = World()
    world.limiter.answer = Invalid("Unknown route class", details={"field": "route_class"})
    answer = await world.ask()
    assert (answer.status, [name for name in answer.headers if "ratelimit" in name]) == (200, [])
    assert world.sample("mesh_ratelimit_unasked_total") == 0


@pytest.mark.parametrize("error", [Unavailable(), DeadlineExceeded(), Invalid("cost is too high")])
async def test_without_an_answer_requests_pass(error: MeshError):
    """A limiter that is away does not take the mesh with it; the answer and a figure say so."""
    world = World()
    world.limiter.answer = error
    answer = await world.ask()
    assert (answer.status, answer.headers["x-ratelimit-degraded"]) == (200, "true")
    assert world.sample("mesh_ratelimit_unasked_total") == 1


async def test_a_limiter_that_keeps_failing_is_left_alone_for_a_while():
    """Two failures end the asking for a second; then one request asks, and all are limited again."""
    world = World()
    world.limiter.answer = Unavailable()
    for _ in range(5):
        assert (await world.ask()).status == 200
    assert len(world.limiter.asked) == 2
    world.limiter.answer = decision()
    world.clock.advance(1.0)
    assert "x-ratelimit-degraded" not in (await world.ask()).headers
    assert len(world.limiter.asked) == 3


async def test_a_class_without_rules_ends_no_asking():
    """Whoever asks for what the rules do not know does not free everybody of his limits."""
    world = World()
    world.limiter.answer = Invalid("unknown route class")
    for _ in range(5):
        assert (await world.ask()).status == 200
    assert len(world.limiter.asked) == 5


async def test_the_subject_of_a_decision():
    """User, role, key and address of who asks."""
    world = World()
    await world.ask()
    [subject] = world.limiter.asked
    assert subject == ratelimit_pb2.Subject(
        route_class="v1.chat", user="u1", role="user", api_key="k1", ip="192.0.2.7", hold=subject.hold
    )
    assert 0 < len(subject.hold) <= 64


async def test_a_request_that_can_never_pass_is_told_no_time():
    """Without a wait there is no Retry-After to honour."""
    world = World()
    world.limiter.answer = decision(allowed=False)
    assert (await world.ask()).status == 429


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, b"0ms"), (20, b"20ms"), (1500, b"1.5s"), (59_999, b"59.999s"), (60_000, b"1m0s"), (360_500, b"6m0.5s")],
)
def test_durations_as_openai_writes_them(milliseconds: int, text: bytes):
    """Minutes and seconds, or milliseconds below one second."""
    assert duration(milliseconds) == text
