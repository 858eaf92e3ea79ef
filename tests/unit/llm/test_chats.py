"""Answers, their charges, breakers, and repeated requests."""

import asyncio
from dataclasses import replace

import pytest

from chassis.errors import Conflict, Invalid, Unavailable
from services.llm.model import Chat, Message, Usage
from services.llm.operations import Catalogue, Chats, chats
from services.llm.operations.chats import Ports
from tests.support.clock import FakeClock
from tests.unit.llm.fakes import FakeAnswers, FakeBook, FakeLedger, FakeProvider, source

ASKED = Chat(model="m", messages=(Message(role="user", content="good morning"),), user_id="u", api_key_id="a")
KEYED = replace(ASKED, idempotency_key="k")


class World:
    """One provider and the use-cases over it."""

    def __init__(self, wait_seconds: float = 0) -> None:
        self.clock = FakeClock()
        self.provider = FakeProvider("openai", "m")
        self.catalogue = Catalogue(
            [source(self.provider, self.clock)], clock=self.clock, default_model="", on_change=lambda *_: None
        )
        self.ledger, self.answers = FakeLedger(), FakeAnswers()
        ports = Ports(ledger=self.ledger, book=FakeBook(), answers=self.answers, clock=self.clock)
        self.chats = Chats(self.catalogue, ports, wait_seconds=wait_seconds)

    @property
    def outcomes(self) -> list[tuple[str, Usage]]:
        return [(charge.outcome, charge.usage) for charge in self.ledger.charges]


@pytest.fixture
async def world() -> World:
    made = World()
    await made.catalogue.refresh()
    return made


async def test_an_answer_is_charged(world):
    """To who asked, for the model that answered."""
    answer = await world.chats.chat(ASKED)
    charge = world.ledger.charges[0]
    assert answer.choices[0].message.content == "one two"
    assert (charge.user_id, charge.api_key_id, charge.model, charge.provider) == ("u", "a", "m", "openai")
    assert world.outcomes == [("ok", Usage(input_tokens=3, output_tokens=2))]


async def test_a_stream_is_charged_once(world):
    """When it has ended, with the usage of its last piece."""
    pieces = [piece async for piece in world.chats.stream(ASKED)]
    assert [delta.content for piece in pieces for delta in piece.deltas] == ["one", " two"]
    assert world.outcomes == [("ok", Usage(input_tokens=3, output_tokens=2))]


async def test_bad_requests_reach_nobody(world):
    """Neither the provider nor the ledger hears of them."""
    for chat in (replace(ASKED, messages=()), replace(ASKED, model="unknown")):
        with pytest.raises(Invalid):
            await world.chats.chat(chat)
        with pytest.raises(Invalid):
            await anext(world.chats.stream(chat))
    assert (world.provider.asked, world.ledger.charges) == (0, [])


async def test_failures_are_recorded_by_their_code(world):
    """A refusal costs nothing; what was said before a break does."""
    world.provider.error = Unavailable(code="PROVIDER_ERROR")
    with pytest.raises(Unavailable):
        await world.chats.chat(ASKED)
    with pytest.raises(Unavailable):
        _ = [piece async for piece in world.chats.stream(ASKED)]
    assert world.outcomes == [
        ("PROVIDER_ERROR", Usage()),
        ("PROVIDER_ERROR", Usage(input_tokens=3, output_tokens=1)),
    ]


async def test_three_failures_open_the_circuit(world):
    """Then the provider is left alone, the caller is told for how long, and one call tries it again."""
    world.provider.error = Unavailable(code="PROVIDER_ERROR")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await world.chats.chat(ASKED)
    with pytest.raises(Unavailable) as refused:
        await world.chats.chat(ASKED)
    assert (refused.value.code, world.provider.asked) == ("CIRCUIT_OPEN", 3)
    assert refused.value.retry_after_seconds == 30
    world.provider.error = None
    world.clock.advance(30)
    await world.chats.chat(ASKED)
    assert world.catalogue.providers[0].circuit == "closed"


async def test_the_callers_mistakes_open_no_circuit(world):
    """However many of them."""
    world.provider.error = Invalid("no")
    for _ in range(5):
        with pytest.raises(Invalid):
            await world.chats.chat(ASKED)
    assert world.catalogue.providers[0].circuit == "closed"


async def test_a_cancelled_request_is_charged_for_what_was_heard(world):
    """In one piece and streamed, and it says nothing about the provider's health."""
    world.provider.pause.clear()
    stream = world.chats.stream(ASKED)
    await anext(stream)
    await stream.aclose()
    asking = asyncio.ensure_future(world.chats.chat(ASKED))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert world.outcomes == [
        ("cancelled", Usage(input_tokens=3, output_tokens=1)),
        ("cancelled", Usage(input_tokens=3, output_tokens=0)),
    ]
    assert world.catalogue.providers[0].circuit == "closed"


async def test_a_repeated_key_gets_the_kept_answer(world):
    """The provider is asked and paid once."""
    first = await world.chats.chat(KEYED)
    assert await world.chats.chat(KEYED) == first
    assert (world.provider.asked, len(world.ledger.charges)) == (1, 1)


async def test_a_key_belongs_to_its_owner(world):
    """Another user's same key is another key."""
    await world.chats.chat(KEYED)
    await world.chats.chat(replace(KEYED, user_id="v"))
    assert world.provider.asked == 2


async def test_a_key_for_another_request_is_refused(world):
    """A key names one request."""
    await world.chats.chat(KEYED)
    with pytest.raises(Conflict) as refused:
        await world.chats.chat(replace(KEYED, temperature=1.0))
    assert refused.value.code == "IDEMPOTENCY_MISMATCH"


async def test_a_failed_request_may_be_repeated(world):
    """Failures are not kept, and neither is the key."""
    world.provider.error = Unavailable()
    with pytest.raises(Unavailable):
        await world.chats.chat(KEYED)
    world.provider.error = None
    assert (await world.chats.chat(KEYED)).choices
    assert world.provider.asked == 2


async def test_a_cancelled_request_gives_its_key_back(world):
    """The next one need not wait for a lease."""
    world.provider.pause.clear()
    asking = asyncio.ensure_future(world.chats.chat(KEYED))
    while not world.provider.asked:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert world.answers.rows == {}


async def test_a_twin_does_not_wait_for_ever(world):
    """While the first is being answered, the second is told to come back."""
    world.provider.pause.clear()
    first = asyncio.ensure_future(world.chats.chat(KEYED))
    while not world.provider.asked:
        await asyncio.sleep(0)
    with pytest.raises(Conflict) as refused:
        await world.chats.chat(KEYED)
    assert refused.value.code == "IDEMPOTENCY_IN_FLIGHT"
    world.provider.pause.set()
    answer = await first
    assert await world.chats.chat(KEYED) == answer
    assert world.provider.asked == 1


async def test_a_twin_gets_the_same_answer():
    """It waits as long as it is told, and the provider is asked once."""
    world = World(wait_seconds=5)
    await world.catalogue.refresh()
    world.provider.pause.clear()
    twins = asyncio.gather(world.chats.chat(KEYED), world.chats.chat(KEYED))
    while not world.provider.asked:
        await asyncio.sleep(0)
    world.provider.pause.set()
    first, second = await twins
    assert first == second
    assert world.provider.asked == 1


async def test_a_key_is_renewed_while_its_answer_is_awaited(world, monkeypatch: pytest.MonkeyPatch):
    """And no longer than that."""
    monkeypatch.setattr(chats, "_RENEW_SECONDS", 0.001)
    world.provider.pause.clear()
    asking = asyncio.ensure_future(world.chats.chat(KEYED))
    async with asyncio.timeout(30):
        while world.answers.renewed < 2:
            await asyncio.sleep(0.001)
    world.provider.pause.set()
    await asking
    renewed = world.answers.renewed
    await asyncio.sleep(0.05)
    assert world.answers.renewed == renewed


async def test_usage_is_looked_up(world):
    """In the book, not in memory."""
    assert [total.requests for total in await world.chats.usage("u", None)] == [1]
