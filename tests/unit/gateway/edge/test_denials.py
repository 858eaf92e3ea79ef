"""Refusals from memory: certain until their exact end, gone with the rules they came from."""

import asyncio
from typing import Any

import pytest
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import Unavailable
from services.gateway.edge import rules_watch
from services.gateway.edge.denials import Denials
from tests.unit.gateway.edge.limiter import decision
from tests.unit.gateway.edge.test_holds import until
from tests.unit.gateway.edge.world import World

VIOLATED: dict[str, Any] = {
    "name": "v1_chat",
    "limit": 10,
    "remaining": 0,
    "window_seconds": 60,
    "reset_after_ms": 60_000,
    "violated": True,
}


def denial(**fields: Any) -> pb.Decision:
    defaults: dict[str, Any] = {"allowed": False, "rules": [VIOLATED], "retry_after_ms": 3000, "generation": 7}
    return decision(**defaults | fields)


def followed() -> World:
    world = World()
    world.limiter.answer = denial()
    world.limiter.generations.put_nowait(7)
    return world


async def test_a_hot_refused_key_costs_no_call():
    """Asked once, refused until the exact end with the figures of each moment, then asked again."""
    world = followed()
    async with world.running():
        await until(world.limiter.generations.empty, "the generation")
        assert (await world.ask()).headers["ratelimit"] == '"v1_chat";r=0;t=3'
        world.clock.advance(1.5)
        later = await world.ask()
        assert (later.status, later.body["retry_after"], later.body["details"]) == (429, 1.5, {"rule": "v1_chat"})
        assert later.headers["ratelimit"] == '"v1_chat";r=0;t=2'
        assert later.headers["x-ratelimit-reset"] == str(int(world.clock.now().timestamp()) + 59)
        world.clock.advance(1.499)
        assert (await world.ask()).status == 429
        assert len(world.limiter.asked) == 1
        world.limiter.answer = decision()
        world.clock.advance(0.001)
        assert (await world.ask()).status == 200
    assert world.sample("mesh_ratelimit_remembered_denials_total") == 2


async def test_others_are_asked_about():
    """A refusal is of one caller, class and address."""
    world = followed()
    async with world.running():
        await until(world.limiter.generations.empty, "the generation")
        await world.ask()
        await world.ask(authorization="Bearer wrong")
        await world.ask(x_forwarded_for="198.51.100.1")
    assert [subject.user for subject in world.limiter.asked] == ["u1", "192.0.2.7"]


async def test_other_rules_end_it_at_once():
    """A raised limit works with the next request."""
    world = followed()
    async with world.running():
        await until(world.limiter.generations.empty, "the generation")
        assert (await world.ask()).status == 429
        world.limiter.answer = decision(generation=8)
        world.limiter.generations.put_nowait(8)
        await until(world.limiter.generations.empty, "the next generation")
        assert (await world.ask()).status == 200


async def test_without_news_of_the_rules_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch):
    """While the stream is down every request is asked about; when it is back, memory is too."""
    monkeypatch.setattr(rules_watch, "_RETRY_FIRST_SECONDS", 0.01)
    world = followed()
    async with world.running():
        await until(world.limiter.generations.empty, "the generation")
        await world.ask()
        world.limiter.generations.put_nowait(None)
        await until(world.limiter.generations.empty, "the stream to end")
        for _ in range(2):
            await world.ask()
        assert len(world.limiter.asked) == 3
        world.limiter.generations.put_nowait(7)
        await until(world.limiter.generations.empty, "the stream to come back")
        for _ in range(2):
            await world.ask()
    assert len(world.limiter.asked) == 4


async def test_a_watch_that_fails_is_taken_up_again(monkeypatch: pytest.MonkeyPatch):
    """As long as it takes."""
    monkeypatch.setattr(rules_watch, "_RETRY_FIRST_SECONDS", 0.01)
    world = followed()
    world.limiter.away = Unavailable()
    async with world.running():
        await until(world.limiter.generations.empty, "the generation")
        await asyncio.sleep(0.02)
        world.limiter.away, world.limiter.tokens = None, 5
        world.limiter.generations.put_nowait(7)
        await until(lambda: world.limits.watch.counts_tokens, "the rules to be known")


@pytest.mark.parametrize(
    "uncertain",
    [
        denial(degraded=True),
        denial(generation=6),
        pb.Decision(generation=7, rules=[pb.RuleState(**VIOLATED)]),
        denial(rules=[{**VIOLATED, "concurrent": True}]),
        denial(rules=[VIOLATED, {**VIOLATED, "name": "in_flight", "concurrent": True}]),
    ],
)
def test_what_may_end_early_is_not_remembered(uncertain: pb.Decision):
    """Guesses, other rules' refusals, those without an end, and those that a place given back would end."""
    denials = Denials()
    denials.follow(7)
    denials.keep(("a",), uncertain, 1.0, 1.0)
    assert len(denials) == 0


def test_it_counts_from_the_question_and_tells_from_the_answer():
    """The counters were read in between: the refusal never outlasts its end, and its time is never too short."""
    denials = Denials()
    denials.follow(7)
    denials.keep(("a",), denial(), 10.0, 10.4)
    found = denials.find(("a",), 12.9)
    assert found is not None
    assert found.retry_after_ms == 500
    assert denials.find(("a",), 13.0) is None
    assert len(denials) == 0


def test_the_one_used_longest_ago_is_forgotten_first():
    """However many callers are refused, memory is bounded."""
    denials = Denials(most_kept=2)
    denials.follow(7)
    denials.keep(("a",), denial(), 1.0, 1.0)
    denials.keep(("b",), denial(), 1.0, 1.0)
    assert denials.find(("a",), 1.0)
    denials.keep(("c",), denial(), 1.0, 1.0)
    assert [bool(denials.find((key,), 1.0)) for key in "abc"] == [True, False, True]
