"""Requests at the same time while the ratelimit service does not answer: no user gets more of them than with it."""

import asyncio
from ipaddress import ip_network
from typing import Any

import pytest
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import Unavailable
from services.gateway.edge.places import Places, limits_of
from tests.unit.gateway.edge.limiter import decision
from tests.unit.gateway.edge.test_holds import Streaming, limited, until
from tests.unit.gateway.edge.world import Answer, World

CALLER = ("v1.chat", "u1", "user", "k1", "192.0.2.7")
TWO = {"in_flight": 2}


async def begin(world: World, app: Streaming, more: int) -> list[asyncio.Task[Answer]]:
    """So many requests more that have begun to be answered."""
    wanted = app.begun + more
    streams = [asyncio.create_task(world.ask()) for _ in range(more)]
    await until(lambda: app.begun == wanted, "the streams to begin")
    return streams


async def ask(world: World, **headers: Any) -> Answer:
    """One request that is answered at once: one that passes wrongly would go on."""
    async with asyncio.timeout(30):
        return await world.ask(**headers)


async def end(streams: list[asyncio.Task[Answer]]) -> None:
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)


def leave_alone(world: World) -> None:
    """The service goes away."""
    world.limiter.answer = world.limiter.away = Unavailable()


def come_back(world: World, *, held: int) -> None:
    """The service answers again, knows of so many places, and is asked."""
    world.limiter.answer, world.limiter.away = decision(), None
    world.limiter.held = {f"known-{number}" for number in range(held)}
    world.clock.advance(1.0)


async def test_five_in_flight_are_never_six_without_the_service():
    """The sixth is refused as ever but for the degraded header, and passes when one has left."""
    app = Streaming()
    world = limited(app, places=5)
    streams = await begin(world, app, 5)
    leave_alone(world)
    for _ in range(4):
        refused = await ask(world)
        assert (refused.status, refused.body["details"]) == (429, {"rule": "in_flight"})
        assert (refused.body["retry_after"], refused.headers["x-ratelimit-degraded"]) == (None, "true")
    assert world.sample("mesh_ratelimit_unasked_total") == 0
    await end(streams[:1])
    streams += await begin(world, app, 1)
    assert (await ask(world)).status == 429
    await end(streams)


async def test_what_passes_without_the_service_counts():
    """From none held up to the limit, again and again, however requests end."""
    app = Streaming()
    app.going.set()
    world = limited(app)
    assert (await ask(world)).status == 200
    leave_alone(world)
    for _ in range(10):
        assert (await ask(world)).status == 200
    app.going.clear()
    for _ in range(3):
        streams = await begin(world, app, 2)
        assert (await ask(world)).status == 429
        await end(streams)


async def test_callers_not_seen_yet_have_the_limits_of_their_class_and_role():
    """Counted by user, from whatever address; where no limit is known requests pass."""
    app = Streaming()
    world = World(app, proxies=[ip_network("192.0.2.0/24")])
    world.limiter.places = 1
    await end(await begin(world, app, 1))
    leave_alone(world)
    streams = [asyncio.create_task(world.ask(x_forwarded_for="198.51.100.2"))]
    streams += [asyncio.create_task(world.ask("/login")) for _ in range(2)]
    await until(lambda: app.begun == 4, "a caller not seen yet and another role to pass")
    assert (await ask(world, x_forwarded_for="198.51.100.1")).status == 429
    await end(streams)


async def test_rates_pass_without_the_service():
    """A class without limits of requests at the same time has none then either."""
    app = Streaming()
    world = World(app)
    await end(await begin(world, app, 1))
    leave_alone(world)
    await end(await begin(world, app, 20))


async def test_a_service_that_came_back_may_know_too_little():
    """It says yes with places to spare; what runs here counts until it ends, and the refusal gives all back."""
    app = Streaming()
    world = limited(app)
    streams = await begin(world, app, 1)
    leave_alone(world)
    streams += await begin(world, app, 1)
    come_back(world, held=0)
    refused = await ask(world)
    assert (refused.status, refused.headers["x-ratelimit-degraded"]) == (429, "true")
    async with world.running():
        await until(lambda: world.limiter.refunded, "the rate to come back")
        await until(lambda: not world.limiter.held, "the place to come back")
    assert world.limiter.refunded == [("v1.chat", 1)]
    await end(streams)
    streams = await begin(world, app, 1)
    assert world.sample("mesh_ratelimit_unasked_total") == 1
    await end(streams)


async def test_other_rules_are_learned_anew():
    """Of the old ones nothing is known any more; a watch that breaks off changes nothing."""
    app = Streaming()
    world = limited(app, places=1)
    async with world.running():
        world.limiter.generations.put_nowait(7)
        await until(world.limiter.generations.empty, "the generation")
        streams = await begin(world, app, 1)
        world.limiter.generations.put_nowait(None)
        await until(world.limiter.generations.empty, "the watch to break off")
        leave_alone(world)
        assert (await ask(world)).status == 429
        world.limiter.away = None
        world.limiter.generations.put_nowait(8)
        await until(world.limiter.generations.empty, "the other generation")
        streams += await begin(world, app, 1)
        await end(streams)


def chat(**fields: Any) -> pb.Decision:
    rules = [{"name": "in_flight", "limit": 2, "concurrent": True}, {"name": "v1_chat", "limit": 10}]
    return decision(**{"rules": rules, "generation": 7} | fields)


def test_classes_share_what_has_one_name():
    """A user's requests count by rule and user, each once however often it leaves, and nothing of it stays."""
    places = Places()
    subjects = [pb.Subject(route_class=name, user="u1", hold=name) for name in ("v1.chat", "openai.chat")]
    for subject in subjects:
        assert places.full("u1", TWO) is None
        places.take(subject, TWO)
    assert (places.full("u1", TWO), places.full("u2", TWO)) == ("in_flight", None)
    for _ in range(2):
        places.leave("v1.chat")
    places.take(subjects[0], TWO, doubtful=True)
    assert places.full("u1", TWO, doubtful=True) == "in_flight"
    for subject in subjects:
        places.leave(subject.hold)
    assert (places._held, places._counts, places._doubtful) == ({}, {}, set())


@pytest.mark.parametrize("told", [None, 7])
def test_limits_hold_for_their_generation(told: int | None):
    """Guesses teach nothing; a caller's own limit is not another's; other rules end it all."""
    places = Places()
    places.follow(7)
    places.learn(CALLER, "user", chat(degraded=True))
    assert places.known(CALLER, "user") == {}
    places.learn(CALLER, "user", chat())
    other = ("v1.chat", "u2", "user", "", "192.0.2.7")
    places.learn(other, "user", chat(rules=[]))
    places.follow(told)
    assert (places.known(CALLER, "user"), places.known(other, "user")) == (TWO, {})
    places.learn(CALLER, "user", chat(rules=[{"name": "new", "limit": 1, "concurrent": True}], generation=8))
    assert places.known(CALLER, "user") == places.known(("v1.chat", "u3"), "user") == {"new": 1}
    places.follow(9)
    assert places.known(CALLER, "user") == places.known(("v1.chat", "u3"), "user") == {}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """However many callers there are; those forgotten have the limits of their class."""
    monkeypatch.setattr("services.gateway.edge.places._MOST_CALLERS", 2)
    places = Places()
    for user in "abcde":
        places.learn(("v1.chat", user), "user", chat())
    assert len(places._callers) <= 2
    assert places.known(("v1.chat", "a"), "user") == TWO == limits_of(chat())
