"""A method that is started without a task means the same to those who call it over a lane as one with a task."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mesh.llm.v1 import llm_pb2

from chassis import errors, telemetry
from chassis.rpc.lane import Lane
from chassis.rpc.methods import Start
from tests.support.rpc import CHAT, Directory, OnlyChat, ask, calling, eventually, serving, until_answered

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Servicer(OnlyChat):
    """Does what the model's name says; what waits does so until the test says how it ends."""

    def __init__(self) -> None:
        self.alone: list[str] = []
        self.begun: dict[str, asyncio.Future[str]] = {}
        self.parents: list[str] = []

    async def Chat(self, request: Any, context: Any) -> llm_pb2.ChatResponse:  # noqa: N802
        del context
        self.alone.append(request.model)
        return llm_pb2.ChatResponse(model=request.model)

    def begin(self, request: Any, traceparent: str) -> asyncio.Future[str] | None:
        self.parents.append(traceparent)
        if request.model == "alone":
            return None
        if request.model == "refused":
            raise errors.Exhausted("Enough", code="ENOUGH")
        future = self.begun[request.model] = asyncio.get_running_loop().create_future()
        if not request.model.startswith("wait"):
            future.set_result(request.model)
        return future

    def finish(self, model: str) -> llm_pb2.ChatResponse:
        if model == "boom":
            raise ValueError("secret")
        return llm_pb2.ChatResponse(model=model)


@pytest.fixture
async def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def stub(servicer: Servicer) -> AsyncIterator[Any]:
    directory = Directory()
    starts = {CHAT: Start(servicer.begin, servicer.finish)}
    async with serving(servicer, starts=starts) as (_, address), calling(Lane, directory) as made:
        directory.known = (address,)
        await until_answered(lambda: made.Chat(ask("first")))
        servicer.parents.clear()
        yield made


async def test_each_call_has_its_own_answer_when_it_is_ready(stub: Any, servicer: Servicer):
    """One that waits holds up no other, and what cannot be started takes the ordinary way."""
    waiting = asyncio.ensure_future(stub.Chat(ask("wait")))
    answers = await asyncio.gather(*(stub.Chat(ask(model)) for model in ("a", "alone", "b")))
    assert [answer.model for answer in answers] == ["a", "alone", "b"]
    assert servicer.alone == ["alone"]
    servicer.begun["wait"].set_result("late")
    assert (await waiting).model == "late"


async def test_errors_arrive_whole(stub: Any, servicer: Servicer):
    """Whether nothing was begun, or what was begun failed; what nobody expected tells nothing."""
    with pytest.raises(errors.Exhausted) as caught:
        await stub.Chat(ask("refused"))
    assert caught.value.code == "ENOUGH"
    failing = asyncio.ensure_future(stub.Chat(ask("wait")))
    await eventually(lambda: "wait" in servicer.begun)
    servicer.begun["wait"].set_exception(errors.Conflict("Taken", code="TAKEN", details={"a": "b"}))
    with pytest.raises(errors.Conflict) as conflict:
        await failing
    assert (conflict.value.code, conflict.value.details) == ("TAKEN", {"a": "b"})
    with pytest.raises(errors.Internal) as unexpected:
        await stub.Chat(ask("boom"))
    assert "secret" not in str(unexpected.value)


async def test_a_caller_that_leaves_cancels_what_was_begun(stub: Any, servicer: Servicer):
    """By its deadline or by itself; the next call is answered."""
    # Where the machine is slow, a short time may be over before the callee has heard of the call.
    for seconds in (0.1, 1, 5):
        with pytest.raises(errors.DeadlineExceeded):
            await stub.Chat(ask("wait"), timeout=seconds)
        if "wait" in servicer.begun:
            break
    await eventually(servicer.begun["wait"].cancelled)
    call = asyncio.ensure_future(stub.Chat(ask("wait more")))
    await eventually(lambda: "wait more" in servicer.begun)
    call.cancel()
    await eventually(servicer.begun["wait more"].cancelled)
    assert (await stub.Chat(ask("next"))).model == "next"


async def test_what_is_begun_belongs_to_the_trace_of_its_call(stub: Any, servicer: Servicer):
    """The servicer is told what it causes things for."""
    token = telemetry.use_traceparent(PARENT)
    try:
        await stub.Chat(ask("a"))
    finally:
        telemetry.drop_traceparent(token)
    assert servicer.parents == [PARENT]


async def test_drain_answers_what_was_begun(servicer: Servicer):
    """A draining server waits for futures as it does for tasks."""
    directory = Directory()
    starts = {CHAT: Start(servicer.begin, servicer.finish)}
    async with serving(servicer, starts=starts) as (host, address), calling(Lane, directory) as stub:
        directory.known = (address,)
        call = asyncio.ensure_future(stub.Chat(ask("wait")))
        await eventually(lambda: "wait" in servicer.begun)
        draining = asyncio.ensure_future(host.drain())
        await eventually(lambda: not host.health.ready)
        servicer.begun["wait"].set_result("under way")
        assert (await call).model == "under way"
        await draining
