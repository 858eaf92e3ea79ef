"""A method with a batch handler means the same to those who call it over a lane as one without."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from mesh.llm.v1 import llm_pb2

from chassis import errors
from chassis.rpc.lane import Lane
from tests.support.rpc import CHAT, Directory, OnlyChat, ask, calling, eventually, serving, until_answered


class Servicer(OnlyChat):
    """Does what the model's name says, alone or many at once."""

    def __init__(self) -> None:
        self.alone = 0
        self.sizes: list[int] = []
        self.release = asyncio.Event()
        self.release.set()

    async def Chat(self, request: Any, context: Any) -> llm_pb2.ChatResponse:  # noqa: N802
        del context
        self.alone += 1
        return llm_pb2.ChatResponse(model=request.model)

    async def chat_batch(self, requests: Sequence[Any]) -> list[Any]:
        self.sizes.append(len(requests))
        await self.release.wait()
        if any(request.model == "boom" for request in requests):
            raise ValueError("secret")
        return [
            errors.Exhausted("Enough", code="ENOUGH", details={"a": "b"}, retry_after_seconds=1.5)
            if request.model == "exhausted"
            else llm_pb2.ChatResponse(model=request.model)
            for request in requests
        ]


@pytest.fixture
async def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def stub(servicer: Servicer) -> AsyncIterator[Any]:
    directory = Directory()
    async with serving(servicer, {CHAT: servicer.chat_batch}) as (_, address), calling(Lane, directory) as made:
        directory.known = (address,)
        await until_answered(lambda: made.Chat(ask("first")))
        servicer.sizes.clear()
        yield made


async def test_calls_that_come_together_are_answered_together(stub: Any, servicer: Servicer):
    """A hundred calls at once take fewer batches than calls, and each gets its own answer."""
    answers = await asyncio.gather(*(stub.Chat(ask(str(n))) for n in range(100)))
    assert [answer.model for answer in answers] == [str(n) for n in range(100)]
    assert sum(servicer.sizes) == 100
    assert len(servicer.sizes) < 100
    assert servicer.alone == 0


async def test_an_error_is_of_its_call_and_arrives_whole(stub: Any):
    """Kind, code, details and delay come through, and the others of the batch are answered."""
    calls = [asyncio.ensure_future(stub.Chat(ask(model))) for model in ("a", "exhausted", "b")]
    with pytest.raises(errors.Exhausted) as caught:
        await calls[1]
    assert [(await calls[0]).model, (await calls[2]).model] == ["a", "b"]
    error = caught.value
    assert (error.code, error.message, error.details, error.retry_after_seconds) == (
        "ENOUGH",
        "Enough",
        {"a": "b"},
        1.5,
    )


async def test_a_batch_that_fails_tells_nothing(stub: Any):
    """Every call of it ends, and the text of the exception stays in the process."""
    with pytest.raises(errors.Internal) as caught:
        await stub.Chat(ask("boom"))
    assert "secret" not in str(caught.value)
    assert (await stub.Chat(ask("after"))).model == "after"


async def test_a_deadline_ends_a_call_in_a_batch(stub: Any, servicer: Servicer):
    """The caller gets DeadlineExceeded, and the next call is answered."""
    servicer.release.clear()
    with pytest.raises(errors.DeadlineExceeded):
        await stub.Chat(ask("late"), timeout=0.1)
    servicer.release.set()
    assert (await stub.Chat(ask("next"))).model == "next"


async def test_drain_answers_the_batch_under_way(servicer: Servicer):
    """A draining server answers the calls that wait in a batch."""
    servicer.release.clear()
    directory = Directory()
    async with serving(servicer, {CHAT: servicer.chat_batch}) as (host, address), calling(Lane, directory) as stub:
        directory.known = (address,)
        call = asyncio.ensure_future(stub.Chat(ask("under way")))
        await eventually(lambda: servicer.sizes == [1])
        draining = asyncio.ensure_future(host.drain())
        await eventually(lambda: not host.health.ready)
        servicer.release.set()
        assert (await call).model == "under way"
        await draining
