"""Places that requests hold: for how long, and that each comes back once however its request ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from chassis.errors import Conflict, Unavailable
from services.gateway.edge import holds as edge_holds
from services.gateway.edge.asgi import App, Receive, Scope, Send
from tests.unit.gateway.edge.limiter import decision
from tests.unit.gateway.edge.world import ClientGone, World

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
END: dict[str, Any] = {"type": "http.response.body", "body": b""}


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that other tasks bring about."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited 30 s for {what}")


class Streaming:
    """An application that begins an answer, and ends it as a test says."""

    def __init__(self) -> None:
        self.going = asyncio.Event()
        self.error: Exception | None = None
        self.begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        self.begun += 1
        await self.going.wait()
        if self.error is not None:
            raise self.error
        await send(dict(END))


def failing(error: Exception) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


def limited(app: App, places: int = 2) -> World:
    world = World(app)
    world.limiter.places = places
    return world


async def test_a_stream_holds_its_place_until_it_ends():
    """Beyond the places requests are refused while answers go on; one that ends makes room for one."""
    app = Streaming()
    world = limited(app)
    async with world.running():
        streams = [asyncio.create_task(world.ask()) for _ in range(2)]
        await until(lambda: app.begun == 2, "both streams to begin")
        assert (await world.ask()).status == 429
        assert world.sample("mesh_ratelimit_holds") == 2
        app.going.set()
        await asyncio.gather(*streams)
        await until(lambda: not world.limiter.held, "the places to come back")
        assert (await world.ask()).status == 200


async def test_too_many_at_the_same_time_are_told_so():
    """The rule, the figures and the unit of the draft; no time, because nobody knows one."""
    app = Streaming()
    world = limited(app, places=1)
    stream = asyncio.create_task(world.ask())
    await until(lambda: app.begun == 1, "the stream to begin")
    refused = await world.ask()
    assert (refused.status, refused.body["details"], refused.body["retry_after"]) == (429, {"rule": "in_flight"}, None)
    assert refused.body["message"] == "Too many requests at the same time"
    assert refused.headers["x-ratelimit-rule"] == "in_flight"
    assert refused.headers["ratelimit-policy"] == '"v1_chat";q=10;w=60, "in_flight";q=1;qu="concurrent-requests"'
    assert refused.headers["ratelimit"] == '"v1_chat";r=9;t=7, "in_flight";r=0'
    app.going.set()
    assert (await stream).status == 200


@pytest.mark.parametrize("error", [ValueError(), Conflict(), ClientGone(), Unavailable()])
async def test_every_end_gives_the_place_back(error: Exception):
    """A fault, a refusal, a client that left: the place comes back, once."""
    world = limited(failing(error))
    async with world.running():
        await world.ask()
        await until(lambda: world.limiter.released, "the place to come back")
    assert len(world.limiter.released) == 1
    assert world.limiter.held == set()


async def test_a_stream_that_breaks_gives_its_place_back():
    """Also when the connection is broken off because the answer failed in its middle."""
    app = Streaming()
    app.going.set()
    app.error = ValueError()
    world = limited(app)
    async with world.running():
        with pytest.raises(Exception, match="INTERNAL"):
            await world.ask()
        await until(lambda: world.limiter.released, "the place to come back")
    assert len(world.limiter.released) == 1


async def test_a_request_that_is_cancelled_gives_its_place_back():
    """As the server does with what runs when it is told to end."""
    app = Streaming()
    world = limited(app)
    async with world.running():
        stream = asyncio.create_task(world.ask())
        await until(lambda: app.begun == 1, "the stream to begin")
        stream.cancel()
        await asyncio.wait([stream])
        await until(lambda: world.limiter.released, "the place to come back")
    assert len(world.limiter.released) == 1


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_question_in_doubt_holds_nothing(monkeypatch: pytest.MonkeyPatch, *, cancelled: bool):
    """Whoever does not hear the answer may hold a place all the same, and gives it back."""
    world = limited(Streaming())
    asked = asyncio.Event()

    async def decide(request: Any, **_: Any) -> Any:
        world.limiter.held.add(request.subjects[0].hold)
        asked.set()
        if cancelled:
            await asyncio.Event().wait()
        raise Unavailable

    monkeypatch.setattr(world.limiter, "Decide", decide)
    async with world.running():
        request = asyncio.create_task(world.ask())
        await asked.wait()
        if cancelled:
            request.cancel()
        await until(lambda: world.limiter.released, "the place to come back")
        assert world.limiter.held == set()
        request.cancel()
        await asyncio.wait([request])


async def test_what_ends_together_goes_back_together():
    """Many requests, few calls; each place once."""
    app = Streaming()
    world = limited(app, places=50)
    async with world.running():
        streams = [asyncio.create_task(world.ask()) for _ in range(50)]
        await until(lambda: app.begun == 50, "all streams to begin")
        app.going.set()
        await asyncio.gather(*streams)
        await until(lambda: len(world.limiter.released) == 50, "all places to come back")
    assert len(set(world.limiter.released)) == 50
    assert world.limiter.releases <= 5


async def test_places_come_back_when_the_limiter_does(monkeypatch: pytest.MonkeyPatch):
    """A release that fails is told again, until the lease is over anyway."""
    monkeypatch.setattr(edge_holds, "_TRY_AGAIN_SECONDS", 0.01)
    world = limited(failing(Conflict()))
    async with world.running():
        world.limiter.away = Unavailable()
        await world.ask()
        await asyncio.sleep(0.05)
        assert world.limiter.released == []
        world.limiter.away = None
        await until(lambda: world.limiter.released, "the place to come back")
        world.limiter.away = Unavailable()
        await world.ask()
        world.clock.advance(10.1)
        world.limiter.away = None
        await asyncio.sleep(0.05)
        assert len(world.limiter.released) == 1


async def test_long_streams_are_renewed_in_one_call(monkeypatch: pytest.MonkeyPatch):
    """Every third of a lease, all at once; what does not end within it keeps its place."""
    monkeypatch.setattr(edge_holds, "_LOOK_SECONDS", 0.01)
    app = Streaming()
    world = limited(app)
    async with world.running():
        streams = [asyncio.create_task(world.ask()) for _ in range(2)]
        await until(lambda: app.begun == 2, "both streams to begin")
        await asyncio.sleep(0.05)
        assert world.limiter.renewed == []
        for _ in range(2):
            world.limiter.renewed.clear()
            world.clock.advance(3.4)
            await until(lambda: world.limiter.renewed, "a renewal")
            assert [set(holds) for holds in world.limiter.renewed] == [world.limiter.held]
        app.going.set()
        await asyncio.gather(*streams)
        world.clock.advance(3.4)
        await asyncio.sleep(0.05)
        assert len(world.limiter.renewed) == 1


async def test_a_lease_that_was_lost_is_counted():
    """The stream goes on, and what it no longer holds is renewed no more."""
    app = Streaming()
    world = limited(app)
    async with world.running():
        stream = asyncio.create_task(world.ask())
        await until(lambda: app.begun == 1, "the stream to begin")
        world.limiter.held.clear()
        assert await world.limits.holds.renew()
        assert world.sample("mesh_ratelimit_holds_lost_total") == 1
        world.limiter.renewed.clear()
        assert await world.limits.holds.renew()
        assert world.limiter.renewed == []
        app.going.set()
        assert (await stream).status == 200


async def test_the_end_of_the_process_gives_everything_back():
    """Whoever is told to end leaves no place taken."""
    app = Streaming()
    world = limited(app)
    async with world.running():
        stream = asyncio.create_task(world.ask())
        await until(lambda: app.begun == 1, "the stream to begin")
    assert world.limiter.held == set()
    assert len(world.limiter.released) == 1
    stream.cancel()
    await asyncio.wait([stream])


async def test_refused_requests_hold_nothing():
    """What another rule refuses takes no place."""
    world = limited(Streaming())
    world.limiter.answer = decision(allowed=False, retry_after_ms=1000)
    async with world.running():
        assert (await world.ask()).status == 429
    assert world.limiter.released == []


async def test_sockets_hold_their_place_too():
    """From the handshake until they close."""

    async def accepting(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        assert len(world.limiter.held) == 1
        await send({"type": "websocket.close", "code": 1000})

    world = limited(accepting)
    async with world.running():
        await world.connect(query=b"token=warm")
        await until(lambda: world.limiter.released, "the place to come back")
    assert world.limiter.held == set()


async def test_whoever_asks_again_at_once_finds_its_place_free():
    """What has ended goes along with the next question, without a call of its own."""
    app = Streaming()
    app.going.set()
    world = limited(app, places=1)
    for _ in range(3):
        assert (await world.ask()).status == 200
    assert (len(world.limiter.released), world.limiter.releases) == (2, 0)
