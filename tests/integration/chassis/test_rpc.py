"""Calls between real servers and clients: the same behaviour over plain RPCs and over lanes."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from mesh.llm.v1 import llm_pb2

from chassis import errors, telemetry
from chassis.rpc import deadline
from chassis.rpc.lane import Lane
from chassis.rpc.peer import Peer
from deploy.local.ports import free_port
from tests.support.rpc import TRANSPORTS, Directory, calling, eventually, serving, until_answered

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Servicer:
    """Does what the model's name says."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.release = asyncio.Event()

    async def Chat(self, request: Any, context: Any) -> llm_pb2.ChatResponse:  # noqa: N802
        self.calls += 1
        try:
            return await self._chat(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _chat(self, request: Any) -> llm_pb2.ChatResponse:
        if request.model == "exhausted":
            raise errors.Exhausted("Enough", code="ENOUGH", details={"a": "b"}, retry_after_seconds=1.5)
        if request.model == "boom":
            raise ValueError("secret")
        if request.model == "wait":
            await self.release.wait()
        if request.model == "large":
            return llm_pb2.ChatResponse(model="x" * 9_000_000)
        if request.model == "context":
            return llm_pb2.ChatResponse(id=telemetry.current_traceparent(), model=str(deadline.remaining_seconds()))
        return llm_pb2.ChatResponse(model=request.model)

    async def ChatStream(self, request: Any, context: Any) -> AsyncIterator[llm_pb2.ChatStreamResponse]:  # noqa: N802
        self.calls += 1
        try:
            for index in range(int(request.user_id or 3)):
                yield llm_pb2.ChatStreamResponse(id=str(index), model="m" * (request.choices or 1000))
            if request.model == "wait":
                await self.release.wait()
            if request.model == "exhausted":
                raise errors.Exhausted("Enough", code="ENOUGH")
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    async def ListModels(self, request: Any, context: Any) -> llm_pb2.ListModelsResponse:  # noqa: N802
        self.calls += 1
        return llm_pb2.ListModelsResponse(default_model=str(id(self)))

    GetUsage = ListProviders = ListModels


@pytest.fixture(params=TRANSPORTS, ids=lambda kind: kind.__name__)
def transport(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def stub(transport: Any, servicer: Servicer) -> AsyncIterator[Any]:
    directory = Directory()
    async with serving(servicer) as (_, address), calling(transport, directory) as made:
        directory.known = (address,)
        await until_answered(lambda: made.Chat(ask()))
        servicer.calls = 0
        yield made


def ask(model: str = "m", **fields: Any) -> llm_pb2.ChatRequest:
    return llm_pb2.ChatRequest(model=model, **fields)


async def test_answers(stub: Any):
    """A call gets its answer."""
    assert (await stub.Chat(ask("x"))).model == "x"


async def test_errors_arrive_whole(stub: Any):
    """Kind, code, details and delay come through."""
    with pytest.raises(errors.Exhausted) as caught:
        await stub.Chat(ask("exhausted"))
    error = caught.value
    assert (error.code, error.message, error.details, error.retry_after_seconds) == (
        "ENOUGH",
        "Enough",
        {"a": "b"},
        1.5,
    )


async def test_unexpected_errors_tell_nothing(stub: Any):
    """The text of an exception stays in the process."""
    with pytest.raises(errors.Internal) as caught:
        await stub.Chat(ask("boom"))
    assert "secret" not in str(caught.value)


async def test_trace_and_deadline_propagate(stub: Any):
    """The callee sees the caller's trace and no more time than the caller has."""
    token = telemetry.use_traceparent(PARENT)
    reset = deadline.set_deadline(deadline.after(20))
    try:
        seen = await stub.Chat(ask("context"), timeout=60)
    finally:
        telemetry.drop_traceparent(token)
        deadline.reset_deadline(reset)
    assert seen.id == PARENT
    assert 0 < float(seen.model) <= 20.5


async def test_a_deadline_ends_the_call_on_both_sides(stub: Any, servicer: Servicer):
    """The caller gets DeadlineExceeded and the callee is cancelled."""
    # Where the machine is slow, a short time may be over before the callee has heard of the call.
    for seconds in (0.05, 0.5, 5):
        with pytest.raises(errors.DeadlineExceeded):
            await stub.Chat(ask("wait"), timeout=seconds)
        if servicer.calls:
            break
    await eventually(lambda: servicer.cancelled == servicer.calls > 0)


async def test_cancelling_the_caller_cancels_the_callee(stub: Any, servicer: Servicer):
    """Work nobody waits for is stopped."""
    call = asyncio.ensure_future(stub.Chat(ask("wait")))
    await eventually(lambda: servicer.calls == 1)
    call.cancel()
    await eventually(lambda: servicer.cancelled == 1)


async def test_a_slow_call_holds_up_no_other(stub: Any, servicer: Servicer):
    """Others are answered while one waits."""
    slow = asyncio.ensure_future(stub.Chat(ask("wait")))
    answers = await asyncio.gather(*(stub.Chat(ask(str(n))) for n in range(100)))
    assert [a.model for a in answers] == [str(n) for n in range(100)]
    assert not slow.done()
    servicer.release.set()
    assert (await slow).model == "wait"


async def test_streams_arrive_in_order_and_end(stub: Any):
    """All messages, in order, then the end."""
    got = [message.id async for message in stub.ChatStream(ask(user_id="500"))]
    assert got == [str(n) for n in range(500)]


async def test_a_stream_ends_with_its_error(stub: Any):
    """What was sent before the error arrives first."""
    got: list[str] = []
    with pytest.raises(errors.Exhausted):
        await _read_into(got, stub.ChatStream(ask("exhausted")))
    assert got == ["0", "1", "2"]


async def _read_into(got: list[str], stream: Any) -> None:
    async for message in stream:
        got.append(message.id)  # noqa: PERF401 - what came before the error counts


async def test_leaving_a_stream_cancels_it(stub: Any, servicer: Servicer):
    """A reader that leaves stops the work."""
    stream = stub.ChatStream(ask("wait"))
    async for message in stream:
        if message.id == "2":
            break
    await stream.aclose()
    await eventually(lambda: servicer.cancelled == 1)


async def test_a_stream_that_is_left_ends_in_its_own_task():
    """Guards and scopes around an answer that cannot be sent see the cancellation, not a collector's late ending."""
    tasks: list[Any] = []

    class Endless(Servicer):
        async def ChatStream(self, request: Any, context: Any) -> AsyncIterator[llm_pb2.ChatStreamResponse]:  # noqa: N802
            tasks.append(asyncio.current_task())
            try:
                while True:
                    yield llm_pb2.ChatStreamResponse(model="m" * 100_000)
            finally:
                tasks.append(asyncio.current_task())

    directory = Directory()
    async with serving(Endless()) as (_, address), calling(Peer, directory) as stub:
        directory.known = (address,)
        stream = stub.ChatStream(ask())
        async for _message in stream:
            break
        await stream.aclose()
        await eventually(lambda: len(tasks) > 1)
    assert tasks[0] is tasks[1]


async def test_a_reader_that_left_too_much_lying_may_leave_itself():
    """Nobody asks any more why its stream has failed, and the loop reports no failure that nobody has seen."""
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    directory, servicer = Directory(), Servicer()
    async with serving(servicer) as (_, address), calling(Lane, directory) as stub:
        directory.known = (address,)
        stream = stub.ChatStream(ask("wait", user_id="50", choices=200_000))
        await anext(stream)
        # The lane gives it up while its reader is busy elsewhere.
        await eventually(lambda: servicer.cancelled == 1)
        await stream.aclose()
        del stream
        gc.collect()
        await asyncio.sleep(0)
    assert reported == []


async def test_heavy_streams_break_nothing(stub: Any):
    """Messages that fill any buffer arrive whole, and calls beside them are answered."""
    beside = asyncio.gather(*(stub.Chat(ask("beside")) for _ in range(10)))
    sizes = [len(message.model) async for message in stub.ChatStream(ask(user_id="300", choices=200_000))]
    assert {answer.model for answer in await beside} == {"beside"}
    assert sizes == [200_000] * 300


async def test_an_answer_too_large_fails_alone(servicer: Servicer):
    """A message that fits into no frame fails its own call and leaves the lane as it is."""
    directory = Directory()
    async with serving(servicer) as (_, address), calling(Lane, directory) as stub:
        directory.known = (address,)
        under_way = asyncio.ensure_future(stub.Chat(ask("wait")))
        await eventually(lambda: servicer.calls == 1)
        with pytest.raises(errors.Internal):
            await stub.Chat(ask("large"))
        with pytest.raises(errors.Invalid):
            await stub.Chat(ask("x" * 9_000_000))
        servicer.release.set()
        assert (await under_way).model == "wait"


async def test_nobody_there(transport: Any):
    """No instance known: Unavailable, with a time to come back."""
    async with calling(transport, Directory()) as stub:
        with pytest.raises(errors.Unavailable) as caught:
            await stub.Chat(ask())
    assert caught.value.retry_after_seconds


async def test_a_dead_instance_is_left_out(transport: Any):
    """With one of two addresses dead, every call still succeeds: nothing was sent to the dead one."""
    directory = Directory()
    async with AsyncExitStack() as stack:
        _, alive = await stack.enter_async_context(serving(Servicer()))
        async with serving(Servicer()) as (_, dead):
            pass
        directory.known = (dead, alive)
        stub = await stack.enter_async_context(calling(transport, directory))
        for _ in range(20):
            await stub.Chat(ask())


async def test_a_restarted_instance_is_found_again(transport: Any):
    """The connection comes back by itself, also when the same address was away."""
    directory = Directory()
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(calling(transport, directory))
        async with serving(Servicer(), port=free_port()) as (_, address):
            directory.known = (address,)
            await stub.Chat(ask())
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):
            await stub.Chat(ask(), timeout=0.3)
        await stack.enter_async_context(serving(Servicer(), port=address.port))
        await until_answered(lambda: stub.Chat(ask(), timeout=1))
        assert (await stub.Chat(ask("back"))).model == "back"


async def test_an_instance_that_ends_under_load_is_found_again(transport: Any):
    """Whatever was being written when it ended, the connection comes back, time after time."""
    directory, over = Directory(), asyncio.Event()

    async def load(stub: Any) -> None:
        while not over.is_set():
            try:
                await stub.Chat(ask(), timeout=1)
            except errors.MeshError:
                await asyncio.sleep(0.001)

    async with calling(transport, directory) as stub, asyncio.TaskGroup() as group:
        port = free_port()
        for _ in range(40):
            async with serving(Servicer(), port=port) as (_, address):
                if not directory.known:
                    directory.known = (address,)
                    for _ in range(20):
                        group.create_task(load(stub))
                await until_answered(lambda: stub.Chat(ask(), timeout=1))
        over.set()


async def test_idempotent_calls_survive_the_loss_of_their_instance(transport: Any):
    """A read under way on an instance that dies is asked again elsewhere; a write is not."""
    directory = Directory()
    async with AsyncExitStack() as stack:
        dying = await stack.enter_async_context(AsyncExitStack())
        slow = Servicer()
        slow.ListModels = _never  # type: ignore[method-assign, assignment]  # it hangs
        _, first = await dying.enter_async_context(serving(slow))
        _, second = await stack.enter_async_context(serving(Servicer()))
        directory.known = (first,)
        stub = await stack.enter_async_context(calling(transport, directory))
        read = asyncio.ensure_future(stub.ListModels(llm_pb2.ListModelsRequest()))
        write = asyncio.ensure_future(stub.Chat(ask("wait")))
        await eventually(lambda: slow.calls == 1)
        directory.known = (first, second)
        await dying.aclose()
        assert (await read).default_model
        with pytest.raises(errors.Unavailable):
            await write


async def _never(request: Any, context: Any) -> None:
    await asyncio.Event().wait()


async def test_calls_spread_over_instances(transport: Any):
    """Two instances share the calls about evenly."""
    directory = Directory()
    async with AsyncExitStack() as stack:
        servicers = [Servicer(), Servicer()]
        pairs = [await stack.enter_async_context(serving(one)) for one in servicers]
        directory.known = tuple(address for _, address in pairs)
        stub = await stack.enter_async_context(calling(transport, directory))
        for _ in range(25):
            await asyncio.gather(*(stub.Chat(ask()) for _ in range(8)))
    assert min(one.calls for one in servicers) > 60


async def test_drain_answers_what_is_under_way(transport: Any, servicer: Servicer):
    """A draining server finishes its calls and refuses new ones, which then go elsewhere."""
    directory = Directory()
    async with AsyncExitStack() as stack:
        host, first = await stack.enter_async_context(serving(servicer))
        _, second = await stack.enter_async_context(serving(Servicer()))
        directory.known = (first,)
        stub = await stack.enter_async_context(calling(transport, directory))
        under_way = asyncio.ensure_future(stub.Chat(ask("wait")))
        await eventually(lambda: servicer.calls == 1)
        directory.known = (first, second)
        draining = asyncio.ensure_future(host.drain())
        await asyncio.sleep(0.05)
        assert (await stub.Chat(ask("new"))).model == "new"
        servicer.release.set()
        assert (await under_way).model == "wait"
        await draining
        assert servicer.calls == 1
