"""Conversations and models as tasks."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from chassis.errors import Invalid, Unavailable
from services.llm.model import Fetched
from services.llm.operations import Catalogue, Chats, Fetching
from services.llm.operations.chats import Ports
from services.llm.worker import asking
from services.llm.worker.asking import BATCH, CHAT, Asking
from services.llm.worker.pulling import PULL, Pulling
from tests.support.clock import FakeClock
from tests.unit.llm.fakes import FakeAnswers, FakeBook, FakeLedger, FakeProvider, source
from worker.handler import Assignment, Reject

ANSWER = {"response": "one two", "model": "m", "provider": "openai", "finish_reason": "stop", "tokens_used": 5}


class FakeLibrary:
    """Fetches two steps, or fails."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def pull(self, model: str) -> AsyncGenerator[Fetched, None]:
        del model
        yield Fetched(done_bytes=1_000, total_bytes=1_000, status="pulling a")
        yield Fetched(done_bytes=1_000, total_bytes=4_000, status="pulling b")
        if self.error is not None:
            raise self.error
        yield Fetched(done_bytes=4_000, total_bytes=4_000, status="success")


class World:
    """A provider, the use-cases over it, and the handlers over them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.provider, self.library, self.answers = FakeProvider("openai", "m"), FakeLibrary(), FakeAnswers()
        self.ledger = FakeLedger()
        self.catalogue = Catalogue(
            [source(self.provider, self.clock)], clock=self.clock, default_model="", on_change=lambda *_: None
        )
        ports = Ports(ledger=self.ledger, book=FakeBook(), answers=self.answers, clock=self.clock)
        self.asking = Asking(Chats(self.catalogue, ports, wait_seconds=0))
        self.pulling = Pulling(Fetching(self.library, self.catalogue))
        self.told: list[tuple[float, str]] = []

    def assigned(self, kind: str, payload: Any, attempt: int = 1) -> Assignment:
        async def report(fraction: float, message: str) -> None:
            self.told.append((fraction, message))

        return Assignment(
            task_id="task_1",
            attempt=attempt,
            kind=kind,
            payload=payload,
            owner_id="u",
            timeout_seconds=60,
            report=report,
        )


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(asking, "_MOST_PAUSE_SECONDS", 0.0)
    made = World()
    await made.catalogue.refresh()
    return made


async def test_a_conversation_is_answered_and_charged_to_its_owner(world: World):
    """In the words of the native API."""
    assert await world.asking.chat(world.assigned(CHAT, {"message": "Hi", "max_tokens": 5})) == ANSWER
    assert [(charge.user_id, charge.outcome) for charge in world.ledger.charges] == [("u", "ok")]


async def test_a_second_attempt_replays_the_first_ones_answer(world: World):
    """The provider is asked once, whatever became of the attempt after its answer."""
    payload = {"messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]}
    assert await world.asking.chat(world.assigned(CHAT, payload)) == ANSWER
    assert await world.asking.chat(world.assigned(CHAT, payload, attempt=2)) == ANSWER
    assert world.provider.asked == 1


async def test_a_batch_answers_each_item_in_its_place(world: World):
    """An item that is wrong, or whose model is unknown, fails no other."""
    items = [{"message": "Hi"}, {"message": "Hi", "model": "none"}, {"message": 5}, {"message": " "}, {"message": "Ho"}]
    result = await world.asking.batch(world.assigned(BATCH, {"items": items}))
    assert result["items"][0] == result["items"][4] == ANSWER
    codes = [item["error"]["code"] for item in result["items"][1:4]]
    assert codes == ["MODEL_NOT_FOUND", "INVALID_INPUT", "VALIDATION_ERROR"]
    assert world.told[-1] == (1.0, "5 of 5")


async def test_a_batch_that_starts_anew_asks_only_what_is_left(world: World):
    """A worker that dies in the middle of a batch loses no answer that it had."""
    items = [{"message": f"Hi {number}"} for number in range(6)]
    world.provider.pause.clear()
    running = asyncio.ensure_future(world.asking.batch(world.assigned(BATCH, {"items": items})))
    async with asyncio.timeout(30):
        while world.provider.asked < 4:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    world.provider.pause.set()
    await world.asking.batch(world.assigned(BATCH, {"items": items}, attempt=2))
    asked = world.provider.asked
    again = await world.asking.batch(world.assigned(BATCH, {"items": items}, attempt=3))
    assert (again["items"], world.provider.asked) == ([ANSWER] * 6, asked)


async def test_an_item_waits_for_a_provider_that_comes_back(world: World):
    """And is an error of its own when it does not."""
    world.provider.error = Unavailable("Away", code="PROVIDER_ERROR")
    result = await world.asking.batch(world.assigned(BATCH, {"items": [{"message": "Hi"}]}))
    assert result["items"][0]["error"]["code"] in {"PROVIDER_ERROR", "CIRCUIT_OPEN"}
    assert world.provider.asked > 1


async def test_answers_without_room_in_the_result_say_so(world: World, monkeypatch: pytest.MonkeyPatch):
    """The result as a whole can always be stored."""
    monkeypatch.setattr(asking, "_ROOM_BYTES", 150)
    result = await world.asking.batch(world.assigned(BATCH, {"items": [{"message": "a"}, {"message": "b"}]}))
    assert result["items"][0] == ANSWER
    assert result["items"][1]["error"]["code"] == "RESULT_TOO_LARGE"


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {},
        {"message": "Hi", "messages": []},
        {"messages": "Hi"},
        {"messages": [{"role": "robot", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"message": "Hi", "max_tokens": "many"},
        {"message": "Hi", "temperature": True},
        {"message": "Hi", "stop": [1]},
        {"message": "Hi", "model": 5},
    ],
)
async def test_what_can_never_be_asked_is_rejected(world: World, payload):
    """Not tried again."""
    with pytest.raises(Reject) as refused:
        await world.asking.chat(world.assigned(CHAT, payload))
    assert refused.value.code == "INVALID_INPUT"


@pytest.mark.parametrize("payload", [{}, {"items": []}, {"items": {}}, {"items": [{"message": "Hi"}] * 501}])
async def test_what_is_no_batch_is_rejected(world: World, payload):
    """As a whole."""
    with pytest.raises(Reject):
        await world.asking.batch(world.assigned(BATCH, payload))


async def test_a_model_is_fetched_with_its_progress(world: World):
    """What was told never falls, though a layer that becomes known makes the whole larger; then it can be asked."""
    world.provider.has.clear()
    assert await world.pulling.handle(world.assigned(PULL, {"model": "m2"})) == {"model": "m2", "size_bytes": 4_000}
    assert world.told == [(0.99, "pulling a"), (0.99, "pulling b"), (0.99, "success")]
    assert world.catalogue.models == ()


async def test_a_fetch_that_fails_is_not_a_success(world: World):
    """The error says whether another attempt makes sense."""
    world.library.error = Unavailable("Away", code="OLLAMA_ERROR")
    with pytest.raises(Unavailable):
        await world.pulling.handle(world.assigned(PULL, {"model": "m2"}))


@pytest.mark.parametrize("name", ["../x", "a b", "-x", "x" * 201])
async def test_what_is_no_name_is_not_fetched(world: World, name):
    """Nothing is asked of the library."""
    with pytest.raises(Invalid):
        await world.pulling.handle(world.assigned(PULL, {"model": name}))
    assert not world.told
