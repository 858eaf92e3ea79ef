"""Tokens of a user: reserved with the decision, refused with it, and given back when it is known what was used."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from chassis.errors import Conflict, Unavailable
from services.gateway.edge.asgi import Receive, Scope, Send
from services.gateway.edge.context import current
from services.gateway.edge.tokens import Reservation
from tests.unit.gateway.edge.test_holds import until
from tests.unit.gateway.edge.world import ClientGone, World

PATH = "/v1/chat/completions"
Part = Callable[[Reservation], Awaitable[None]]


def reservation_of(scope: Scope) -> Reservation:
    reservation = current(scope).tokens
    assert reservation is not None
    return reservation


@asynccontextmanager
async def counting(part: Part, tokens: int = 5000) -> AsyncIterator[World]:
    """An edge in front of an application that does something with its reservation and answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await part(reservation_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    world = World(app)
    world.limiter.tokens = tokens
    world.limiter.generations.put_nowait(1)
    async with world.running():
        await until(lambda: world.limits.watch.counts_tokens, "the rules to be known")
        yield world


def using(tokens: int, *, need: int = 0, error: Exception | None = None) -> Part:
    async def part(reservation: Reservation) -> None:
        await reservation.need(need)
        reservation.used = tokens
        if error is not None:
            raise error

    return part


async def test_the_rest_of_a_reservation_comes_back():
    """Asked in the same call as the request itself, with the length of the body; what was not used goes back."""
    async with counting(using(30)) as world:
        answer = await world.ask(PATH, content_length="40")
        assert [(one.route_class, one.cost) for one in world.limiter.asked] == [("v1.chat", 0), ("openai.tokens", 1010)]
        assert (answer.headers["x-ratelimit-limit-tokens"], answer.headers["x-ratelimit-remaining-tokens"]) == (
            "10000",
            "3990",
        )
        assert answer.headers["x-ratelimit-reset-tokens"] == "30s"
        assert answer.headers["ratelimit-policy"].endswith('"openai_tokens";q=10000;w=60;qu="tokens"')
        await until(lambda: world.limiter.refunded == [("openai.tokens", 980)], "the rest to come back")


async def test_a_route_may_reserve_what_nobody_could_know_before():
    """Nothing with the decision, then what the body says; more than one question may ask for in several."""
    async with counting(using(7, need=1_000_500), tokens=2_000_000) as world:
        world.limiter.most_tokens = 2_000_000
        assert (await world.ask("/task")).status == 200
        assert [one.cost for one in world.limiter.asked] == [0, 1_000_000, 500]
        await until(lambda: world.limiter.tokens == 2_000_000 - 7, "the rest to come back")


@pytest.mark.parametrize("tokens", [5000, 2_000_000])
async def test_a_request_that_needs_more_than_ever_passes_is_told_so(tokens: int):
    """In words and figures, and without a time to come back at; at the first question, and nothing is kept."""
    async with counting(using(0, need=43_000), tokens) as world:
        answer = await world.ask("/task")
        assert (answer.status, answer.body["details"]["limit"], answer.body["details"]["needed"]) == (
            429,
            "10000",
            "43000",
        )
        assert "43000 tokens, and at most 10000 pass in 60 seconds" in answer.body["message"]
        assert answer.body["retry_after"] is None
        await until(lambda: ("v1.chat", 1) in world.limiter.refunded, "the request to come back")
        assert (world.limiter.tokens, len(world.limiter.asked)) == (tokens, 2)


async def test_what_the_request_says_is_reserved_before_it_runs():
    """An answer longer than was thought is asked for, and what it does not use comes back of both."""
    async with counting(using(1200, need=1500)) as world:
        await world.ask(PATH)
        assert [one.cost for one in world.limiter.asked] == [0, 1000, 500]
        await until(lambda: world.limiter.refunded == [("openai.tokens", 300)], "the rest to come back")


@pytest.mark.parametrize(("tokens", "need"), [(900, 0), (5000, 5500)])
async def test_without_tokens_nothing_is_taken(tokens: int, need: int):
    """Refused by tokens, at once or once the body is read: no request was counted, no token, and no place is held."""
    async with counting(using(0, need=need), tokens) as world:
        world.limiter.places = 5
        answer = await world.ask(PATH)
        assert (answer.status, answer.body["retry_after"]) == (429, 20.0)
        assert (answer.body["details"], answer.headers["x-ratelimit-rule"]) == (
            {"rule": "openai_tokens"},
            "openai_tokens",
        )
        await until(lambda: ("v1.chat", 1) in world.limiter.refunded, "the request to come back")
        await until(lambda: world.limiter.released, "the place to come back")
        assert (world.limiter.tokens, world.limiter.held) == (tokens, set())


async def test_a_refused_request_reserves_nothing():
    """Refused by its own limit: the tokens come back."""
    async with counting(using(0)) as world:
        world.limiter.places = 0
        assert (await world.ask(PATH)).status == 429
        await until(lambda: world.limiter.tokens == 5000, "the tokens to come back")
        assert world.limiter.refunded == [("openai.tokens", 1000)]


@pytest.mark.parametrize("error", [Conflict(), ValueError()])
async def test_failures_use_no_tokens(error: Exception):
    """Whatever was thought to be used: the client got an error."""
    async with counting(using(30, error=error)) as world:
        await world.ask(PATH)
        await until(lambda: world.limiter.refunded == [("openai.tokens", 1000)], "the reservation to come back")


async def test_a_client_that_leaves_pays_for_what_was_said():
    """What was used when it left is not given back."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        reservation_of(scope).used = 400
        raise ClientGone

    world = World(app)
    world.limiter.tokens = 5000
    world.limiter.generations.put_nowait(1)
    async with world.running():
        await until(lambda: world.limits.watch.counts_tokens, "the rules to be known")
        await world.ask(PATH)
        await until(lambda: world.limiter.refunded == [("openai.tokens", 600)], "the rest to come back")


async def test_rules_without_tokens_are_not_asked_for_them():
    """Other classes' rules count requests, and a thousand of those is not what a chat is."""
    world = World()
    assert (await world.ask(PATH)).status == 200
    assert [one.route_class for one in world.limiter.asked] == ["v1.chat"]


async def test_a_limiter_that_falls_silent_refuses_nothing():
    """Between the two questions of a request."""

    async def part(reservation: Reservation) -> None:
        silenced[0].limiter.answer = Unavailable()
        await reservation.need(4000)

    async with counting(part) as world:
        silenced = [world]
        answer = await world.ask(PATH)
        assert (answer.status, answer.headers["x-ratelimit-degraded"]) == (200, "true")
