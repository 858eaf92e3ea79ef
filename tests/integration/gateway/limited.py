"""Gateways and the limiter as processes, over a Redis; what is behind them is in the test, and as slow as it says."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc
from mesh.ratelimit.v1 import ratelimit_pb2, ratelimit_pb2_grpc
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.config import Discovery, Rpc
from chassis.rpc.server import open_server
from deploy.local.ports import free_port
from tests.support.client import Client, client
from tests.support.rpc import open_host

_ROOT = Path(__file__).parents[3]
_READY_SECONDS = 60

ADMIN = ("root", "correct horse battery")


class Slow(llm_pb2_grpc.LlmServiceServicer, tasks_pb2_grpc.TaskServiceServicer):
    """A model that says "Hello" and then waits to be let on, and a queue that takes tasks when it is let on."""

    def __init__(self) -> None:
        self.on = asyncio.Event()
        self.begun = 0
        self.left = 0

    async def ChatStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - the contract's name
        self.begun += 1
        try:
            yield llm_pb2.ChatStreamResponse(id="1", model="slow", deltas=[llm_pb2.Delta(content="Hello")])
            await self.on.wait()
            yield llm_pb2.ChatStreamResponse(usage=llm_pb2.Usage(input_tokens=10, output_tokens=20))
        finally:
            self.left += 1

    async def Chat(self, request: Any, context: Any) -> llm_pb2.ChatResponse:  # noqa: N802
        usage = llm_pb2.Usage(input_tokens=10, output_tokens=20)
        choice = llm_pb2.Choice(message=llm_pb2.Message(role="assistant", content="Hello"), finish_reason="stop")
        return llm_pb2.ChatResponse(id="1", model="slow", choices=[choice], usage=usage)

    async def ListProviders(self, request: Any, context: Any) -> llm_pb2.ListProvidersResponse:  # noqa: N802
        return llm_pb2.ListProvidersResponse()

    async def ListModels(self, request: Any, context: Any) -> llm_pb2.ListModelsResponse:  # noqa: N802
        return llm_pb2.ListModelsResponse()

    async def ListTasks(self, request: Any, context: Any) -> tasks_pb2.ListTasksResponse:  # noqa: N802
        return tasks_pb2.ListTasksResponse()

    async def GetSummary(self, request: Any, context: Any) -> tasks_pb2.GetSummaryResponse:  # noqa: N802
        return tasks_pb2.GetSummaryResponse()

    async def Submit(self, request: Any, context: Any) -> tasks_pb2.SubmitResponse:  # noqa: N802
        self.begun += 1
        await self.on.wait()
        task = tasks_pb2.Task(id="task_01JABCDEFGHJKMNPQRSTVWXYZ0", kind=request.kind, state=tasks_pb2.STATE_QUEUED)
        return tasks_pb2.SubmitResponse(task=task)


class Limited:
    """Gateways at `urls` that ask the same limiters, one or more."""

    def __init__(self, stack: AsyncExitStack, database_url: str) -> None:
        self._stack = stack
        self._database_url = database_url
        self.slow = Slow()  # type: ignore[abstract]  # nothing here asks for its other methods
        self.gateways: list[asyncio.subprocess.Process] = []
        # By address.
        self.limiters: dict[str, asyncio.subprocess.Process] = {}
        self.urls: list[str] = []
        self._limiters: dict[str, dict[str, str]] = {}
        self._behind = ""

    async def start(self) -> None:
        host = await self._stack.enter_async_context(open_host("llm"))
        register = [
            partial(llm_pb2_grpc.add_LlmServiceServicer_to_server, self.slow),
            partial(tasks_pb2_grpc.add_TaskServiceServicer_to_server, self.slow),
        ]
        server = await host.enter(open_server(host, Rpc(port=0), Discovery(), register=register))
        await host.health.set_ready(True)
        self._behind = f"127.0.0.1:{server.port}"

    async def add_limiter(self, redis_url: str, rules: Path | None) -> None:
        port = free_port()
        address = f"127.0.0.1:{port}"
        self._limiters[address] = {
            "MESH_GRPC_PORT": str(port),
            "REDIS_URL": redis_url,
            "MESH_RATE_LIMITS_FILE": str(rules or ""),
            # A machine that is busy is not a Redis that hangs: what is decided here must not be degraded.
            "MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS": "2",
        }
        await self.start_limiter(address)

    async def start_limiter(self, address: str) -> None:
        """Starts one that was added, also after it has ended."""
        self.limiters[address] = await self._run("services.ratelimit", **self._limiters[address])

    async def add_gateway(self) -> str:
        """One more gateway; its URL once it answers and its limiter does."""
        port = free_port()
        process = await self._run(
            "services.gateway",
            DATABASE_URL=self._database_url,
            # Nobody listens there: limits need no broker.
            AMQP_URL=f"amqp://guest:guest@127.0.0.1:{free_port()}/",
            JWT_SECRET="0123456789abcdef0123456789abcdef",
            MESH_HTTP_PORT=str(port),
            MESH_DRAIN_SECONDS="1",
            ADMIN_USERNAME=ADMIN[0],
            ADMIN_PASSWORD=ADMIN[1],
            RATELIMIT_ADDRESS=",".join(self._limiters),
            LLM_ADDRESS=self._behind,
            TASKS_ADDRESS=self._behind,
        )
        url = f"http://127.0.0.1:{port}"
        self.gateways.append(process)
        self.urls.append(url)
        async with asyncio.timeout(_READY_SECONDS), client(url) as asking:
            while not await _limits(asking):
                assert process.returncode is None, "the gateway ended"
                await asyncio.sleep(0.05)
        return url

    async def decisions(self) -> int:
        """How many the limiters have taken."""
        taken = 0
        for address in self._limiters:
            async with grpc.aio.insecure_channel(address) as channel:
                stub = ratelimit_pb2_grpc.RatelimitServiceStub(channel)
                taken += (await stub.GetStatus(ratelimit_pb2.GetStatusRequest())).decisions
        return taken

    async def _run(self, module: str, **environment: str) -> asyncio.subprocess.Process:
        paths = {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'proto'}", "PATH": os.defpath}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, cwd=_ROOT, env=paths | environment, stdout=asyncio.subprocess.DEVNULL
        )
        self._stack.push_async_callback(_end, process)
        return process


async def _limits(asking: Client) -> bool:
    """Whether the gateway answers, and the limiter answers it with Redis."""
    try:
        answer = await asking.get("/api/v1/agents")
    except OSError:
        return False
    return "x-ratelimit-limit" in answer.headers and "x-ratelimit-degraded" not in answer.headers


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@asynccontextmanager
async def limited(
    database_url: str, redis_url: str, rules: Path | None = None, limiters: int = 1
) -> AsyncIterator[Limited]:
    """Limiters with the built-in rules, or with those of a file, and one gateway that asks them."""
    async with AsyncExitStack() as stack:
        made = Limited(stack, database_url)
        await made.start()
        for _ in range(limiters):
            await made.add_limiter(redis_url, rules)
        await made.add_gateway()
        yield made
