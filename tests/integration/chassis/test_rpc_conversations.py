"""Methods with streams both ways, between a real server and a peer."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from mesh.tasks.v1 import tasks_pb2 as pb
from mesh.tasks.v1 import tasks_pb2_grpc

from chassis import errors
from chassis.config import Discovery, Rpc
from chassis.discovery import Address
from chassis.rpc.lane import Lane
from chassis.rpc.methods import MethodTable
from chassis.rpc.peer import Peer
from chassis.rpc.pool import Pool
from chassis.rpc.server import open_server
from tests.support.rpc import Directory, OnlyChat, open_host


class Servicer(OnlyChat):
    """Counts what it hears, and answers each with the sum so far."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.ended = 0

    async def Offer(self, requests: AsyncIterator[pb.OfferRequest], context: Any) -> AsyncIterator[pb.OfferResponse]:  # noqa: N802
        del context
        try:
            async for request in requests:
                self.heard.append(request.most)
                if request.session_id == "refused":
                    raise errors.Conflict("No", code="REFUSED", details={"a": "b"})
                yield pb.OfferResponse(most=sum(self.heard))
        finally:
            self.ended += 1

    async def Chat(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise AssertionError


@asynccontextmanager
async def talking(servicer: Any) -> AsyncIterator[tuple[Any, str, Pool]]:
    """A stub, the server's address, and the stub's pool."""
    directory = Directory()
    register = [partial(tasks_pb2_grpc.add_WorkerServiceServicer_to_server, servicer)]
    pool = Pool("tasks", directory)
    async with open_host("tasks") as host:
        server = await host.enter(open_server(host, Rpc(port=0), Discovery(), register=register))
        directory.known = (Address(host="127.0.0.1", port=server.port),)
        try:
            yield tasks_pb2_grpc.WorkerServiceStub(Peer(pool)), f"127.0.0.1:{server.port}", pool
        finally:
            await pool.close()


async def say(*numbers: int, session: str = "s") -> AsyncIterator[pb.OfferRequest]:
    for number in numbers:
        yield pb.OfferRequest(session_id=session, most=number)


async def one_word() -> AsyncIterator[pb.OfferRequest]:
    """And then silence."""
    yield pb.OfferRequest(most=1)
    await asyncio.Event().wait()


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_both_sides_say_what_they_want_when_they_want() -> None:
    """Each answer comes before the next request; the end of one side is the end of the other."""
    servicer, asked = Servicer(), asyncio.Event()

    async def wait_for_answers() -> AsyncIterator[pb.OfferRequest]:
        for number in (1, 2, 3):
            yield pb.OfferRequest(most=number)
            await asked.wait()
            asked.clear()

    async with talking(servicer) as (stub, _, _):
        answers = []
        async for answer in stub.Offer(wait_for_answers()):
            answers.append(answer.most)
            asked.set()
    assert (answers, servicer.heard, servicer.ended) == ([1, 3, 6], [1, 2, 3], 1)


async def test_an_error_arrives_whole() -> None:
    """Kind, code and details, after what was answered before."""
    async with talking(Servicer()) as (stub, _, _):
        with pytest.raises(errors.Conflict) as caught:
            await anext(stub.Offer(say(1, session="refused")))
    assert (caught.value.code, caught.value.details) == ("REFUSED", {"a": "b"})


async def test_who_leaves_ends_it_on_the_other_side() -> None:
    """Also while the server waits for what comes next."""
    servicer = Servicer()

    async with talking(servicer) as (stub, _, _):
        stream = stub.Offer(one_word())
        assert (await anext(stream)).most == 1
        await stream.aclose()
        await eventually(lambda: servicer.ended == 1)


async def test_a_stream_to_an_instance_that_left_ends_with_an_error() -> None:
    """Its channel is closed some time after; whoever reads the stream has to open another, and was not cancelled."""
    async with talking(Servicer()) as (stub, _, pool):
        stream = stub.Offer(one_word())
        assert (await anext(stream)).most == 1
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        (instance,) = pool._instances.values()
        await instance.channel.close()
        with pytest.raises(errors.Unavailable):
            await reading


async def test_a_reader_that_is_cancelled_is() -> None:
    """It asked for no error."""
    async with talking(Servicer()) as (stub, _, _):
        other = stub.Offer(one_word())
        reading = asyncio.ensure_future(anext(other))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_nonsense_in_the_middle_ends_it_with_a_status() -> None:
    """The client's fault is no internal error of ours."""
    servicer = Servicer()
    async with talking(servicer) as (_, address, _), grpc.aio.insecure_channel(address) as channel:
        open_stream: Any = channel.stream_stream("/mesh.tasks.v1.WorkerService/Offer")
        call = open_stream(_raw(b"\x10\x05", b"\xff\xff"))
        assert pb.OfferResponse.FromString(await call.read()).most == 5
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert "not of the method's type" in str(caught.value.details())
    assert servicer.ended == 1


async def _raw(*bodies: bytes) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body
        await asyncio.sleep(0.05)


async def test_a_lane_has_no_streams_of_requests() -> None:
    with pytest.raises(TypeError, match="no streams of requests"):
        tasks_pb2_grpc.WorkerServiceStub(Lane(Pool("tasks", Directory())))


def test_a_stream_with_one_answer_is_not_served() -> None:
    handler: Any = grpc.stream_unary_rpc_method_handler(lambda *_: None)
    with pytest.raises(TypeError, match="a lane carries many calls"):
        MethodTable().add_registered_method_handlers("s", {"Many": handler})


_SERVER = """
import asyncio
from functools import partial
from mesh.tasks.v1 import tasks_pb2_grpc
from chassis.config import Discovery, Rpc
from chassis.rpc.server import open_server
from tests.integration.chassis.test_rpc_conversations import Servicer
from tests.support.rpc import open_host

async def serve():
    register = [partial(tasks_pb2_grpc.add_WorkerServiceServicer_to_server, Servicer())]
    async with open_host("tasks") as host:
        server = await host.enter(open_server(host, Rpc(port=0), Discovery(), register=register))
        print("port", server.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(serve())
"""


async def test_a_stream_to_a_process_that_stands_still_breaks() -> None:
    """Within a session's lease. It still accepts TCP, and would keep its clients for a minute."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _SERVER, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = 0
        while not port:
            said = (await process.stdout.readline()).decode().split()
            port = int(said[1]) if said[:1] == ["port"] else 0
        directory = Directory()
        directory.known = (Address(host="127.0.0.1", port=port),)
        pool = Pool("tasks", directory)

        stream = tasks_pb2_grpc.WorkerServiceStub(Peer(pool)).Offer(one_word())
        assert (await anext(stream)).most == 1  # type: ignore[call-overload]  # a peer's streams are iterators
        process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            with pytest.raises(errors.Unavailable):
                await anext(stream)  # type: ignore[call-overload]  # as above
        await pool.close()
    finally:
        process.kill()
        await process.wait()
