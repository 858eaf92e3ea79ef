"""The agents service as a process, over real stores and a real tasks service; only the language model is a stand-in."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest
from mesh.agents.v1 import agents_pb2_grpc
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc

from deploy.local.ports import free_port
from tests.integration.worker.processes import Mesh, Tasks
from tests.support.databases import Databases
from tests.support.otlp import Receiver, receiving


class Thinker(llm_pb2_grpc.LlmServiceServicer):
    """Answers with the question, replays by key, and can be told to be slow or to fail."""

    def __init__(self) -> None:
        self.asked: list[llm_pb2.ChatRequest] = []
        self.answers: dict[str, str] = {}
        self.seconds = 0.0
        self.refuses = ""

    async def Chat(  # noqa: N802 - the contract's name
        self, request: llm_pb2.ChatRequest, context: Any
    ) -> llm_pb2.ChatResponse:
        self.asked.append(request)
        await asyncio.sleep(self.seconds)
        question = request.messages[-1].content
        if self.refuses and self.refuses in request.messages[0].content:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such model")
        answer = self.answers.setdefault(request.idempotency_key, f"{len(self.answers)}: {question}")
        choice = llm_pb2.Choice(message=llm_pb2.Message(role="assistant", content=answer))
        usage = llm_pb2.Usage(input_tokens=3, output_tokens=4)
        return llm_pb2.ChatResponse(model="stand-in", choices=[choice], usage=usage)


@pytest.fixture
async def thinker() -> AsyncIterator[tuple[Thinker, int]]:
    """A language model on a port."""
    server = grpc.aio.server()
    servicer = Thinker()  # type: ignore[abstract]  # agents asks nothing else
    llm_pb2_grpc.add_LlmServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, port
    await server.stop(None)


@pytest.fixture
def traces() -> Iterator[Receiver]:
    """Where all spans go."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def migrated_url(databases: Databases) -> Iterator[str]:
    """The address of a database with the schemas of both services."""
    with databases.migrated("tasks", "agents") as url:
        yield url


@pytest.fixture
async def mesh(migrated_url: str, amqp_url: str, thinker: tuple[Thinker, int], traces: Receiver) -> AsyncIterator[Mesh]:
    """The tasks service runs; agents knows where everybody is."""
    environment = {
        "DATABASE_URL": migrated_url,
        "AMQP_URL": amqp_url,
        "MESH_DISCOVERY": "static",
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint,
        "LLM_ADDRESS": f"127.0.0.1:{thinker[1]}",
        "AGENTS_ADDRESS": f"127.0.0.1:{free_port()}",
        "MESH_AGENT_REPAIR_SECONDS": "0.5",
        "MESH_AGENT_QUIET_SECONDS": "2",
        "MESH_WEBHOOKS_ALLOW_HTTP": "true",
        "MESH_WEBHOOKS_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    async with AsyncExitStack() as stack:
        mesh = Mesh(stack, environment)
        await mesh.add_tasks()
        yield mesh


@pytest.fixture
async def tasks(mesh: Mesh) -> Tasks:
    """The tasks service, as a test speaks to it."""
    return Tasks(await mesh.channel(mesh.environment["TASKS_ADDRESS"]))


@pytest.fixture
async def agents(mesh: Mesh) -> "agents_pb2_grpc.AgentServiceAsyncStub":
    """The agents service, running."""
    address = mesh.environment["AGENTS_ADDRESS"]
    await mesh.add("services.agents", MESH_GRPC_PORT=address.partition(":")[2], MESH_INSTANCE="agents-1")
    stub: agents_pb2_grpc.AgentServiceAsyncStub = agents_pb2_grpc.AgentServiceStub(await mesh.channel(address))
    return stub
