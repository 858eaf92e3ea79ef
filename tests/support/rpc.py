"""Real gRPC servers and clients on loopback, as many as a test wants, with a directory that the test writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from mesh.llm.v1 import llm_pb2, llm_pb2_grpc

from chassis.clock import SystemClock
from chassis.config import Discovery, Process, Rpc
from chassis.discovery import Address
from chassis.errors import DeadlineExceeded, Unavailable
from chassis.lifecycle import Host
from chassis.rpc.lane import Lane
from chassis.rpc.lane_stream import LaneStream
from chassis.rpc.peer import Peer
from chassis.rpc.pool import Pool
from chassis.rpc.server import open_server

CHAT = "/mesh.llm.v1.LlmService/Chat"


def ask(model: str) -> llm_pb2.ChatRequest:
    """A chat with a model."""
    return llm_pb2.ChatRequest(model=model)


class OnlyChat:
    """A servicer whose methods are all its `Chat`, for tests that call no other."""

    Chat: Any

    def __getattr__(self, name: str) -> Any:
        if name[0].isupper():
            return self.Chat
        raise AttributeError(name)


class Directory:
    """Discovery whose answers the test decides."""

    def __init__(self) -> None:
        self.known: tuple[Address, ...] = ()

    def instances(self, service: str) -> tuple[Address, ...]:
        del service
        return self.known


@asynccontextmanager
async def open_host(name: str) -> AsyncIterator[Host]:
    """A process without a process."""
    async with AsyncExitStack() as stack:
        yield Host(name, Process(drain_seconds=5), SystemClock(), stack)


@asynccontextmanager
async def serving(
    servicer: Any, batches: Any = None, port: int = 0, *, starts: Any = None
) -> AsyncIterator[tuple[Host, Address]]:
    """A server with the llm contract."""
    register = [partial(llm_pb2_grpc.add_LlmServiceServicer_to_server, servicer)]
    async with open_host("llm") as host:
        handlers = {"batches": batches, "starts": starts}
        server = await host.enter(open_server(host, Rpc(port=port), Discovery(), register=register, **handlers))
        await host.health.set_ready(True)
        yield host, Address(host="127.0.0.1", port=server.port)


@asynccontextmanager
async def calling(make: Callable[[Pool], Any], directory: Directory, window: int = 1) -> AsyncIterator[Any]:
    """A stub over a Peer or a Lane."""
    attach = (lambda instance: LaneStream(instance, "llm", window)) if make is Lane else None
    pool = Pool("llm", directory, attach)
    try:
        yield llm_pb2_grpc.LlmServiceStub(make(pool))
    finally:
        await pool.close()


TRANSPORTS = (Peer, Lane)


async def until_answered(ask: Callable[[], Awaitable[Any]]) -> None:
    """Waits until a connection stands: a call waits a second for it, which may be too short on a busy machine."""
    async with asyncio.timeout(30):
        while True:
            try:
                await ask()
            except (Unavailable, DeadlineExceeded):
                await asyncio.sleep(0.05)
            else:
                return


async def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
