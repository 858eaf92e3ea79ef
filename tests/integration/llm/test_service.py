"""The service as it is deployed, over real sockets on both sides: callers by RPC and by lane, a provider over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc

from chassis import migrations
from chassis.clock import SystemClock
from chassis.config import Discovery, Postgres, Process, Rabbit, Rpc
from chassis.errors import Conflict, DeadlineExceeded, Invalid, Unavailable
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane
from chassis.rpc.peer import open_peer
from deploy.local.ports import free_port
from services.llm.app import build
from services.llm.config import Keys, Llm, Ollama, Settings
from tests.support.rpc import until_answered
from tests.support.upstream import KEY, MODEL, Upstream, upstream

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


class Service:
    """The running service, its callers and the provider behind it."""

    def __init__(self, host: Host, peer: Any, lane: Any, behind: Upstream) -> None:
        self.host = host
        self.peer = llm_pb2_grpc.LlmServiceStub(peer)
        self.lane = llm_pb2_grpc.LlmServiceStub(lane)
        self.behind = behind

    def by(self, way: str) -> Any:
        return self.peer if way == "peer" else self.lane


def question(model: str = MODEL, **fields: Any) -> llm_pb2.ChatRequest:
    message = llm_pb2.Message(role="user", content="good morning")
    return llm_pb2.ChatRequest(model=model, messages=[message], user_id="u", **fields)


@asynccontextmanager
async def running(database_url: str, behind: Upstream) -> AsyncIterator[Service]:
    settings = Settings(
        postgres=Postgres(url=database_url),
        # Callers are answered without a broker.
        rabbit=Rabbit(url="amqp://nobody@127.0.0.1:1/"),
        rpc=Rpc(port=(port := free_port())),
        llm=Llm(breaker_failures=2, answer_wait_seconds=0),
        ollama=Ollama(host=behind.url, timeout_seconds=5),
        keys=Keys(openai_key=KEY, openai_url=f"{behind.url}/v1"),
    )
    found = Discovery(backend="static", llm_address=f"127.0.0.1:{port}")
    async with AsyncExitStack() as stack:
        host = Host("llm", Process(drain_seconds=5), SystemClock(), stack)
        await build(settings, host)
        await host.health.set_ready(True)
        peer = await host.enter(open_peer(host, "llm", found))
        lane = await host.enter(open_lane(host, "llm", found))
        made = Service(host, peer, lane, behind)
        for stub in (made.peer, made.lane):
            await until_answered(partial(stub.ListProviders, llm_pb2.ListProvidersRequest()))
        yield made


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """Without a database: nothing but usage and idempotency needs it."""
    async with upstream() as behind, running(NOWHERE, behind) as made:
        yield made


ways = pytest.mark.parametrize("way", ["peer", "lane"])


@ways
async def test_a_chat(service: Service, way: str):
    """Answered by the model that was named, with its usage."""
    answer = await service.by(way).Chat(question("gpt"))
    assert answer.choices[0].message.content == "You said: good morning"
    assert (answer.model, answer.provider) == (MODEL, "openai")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 4)


@ways
async def test_a_stream(service: Service, way: str):
    """Token by token, the usage at the end."""
    events = [event async for event in service.by(way).ChatStream(question("ollama"))]
    assert "".join(delta.content for event in events for delta in event.deltas) == "You said: good morning"
    assert [event.HasField("usage") for event in events] == [False] * (len(events) - 1) + [True]


@pytest.mark.parametrize("trouble", ["silent", "stall"])
@ways
async def test_a_caller_that_leaves_stops_the_provider(service: Service, way: str, trouble: str):
    """From the caller's cancellation to the upstream's socket."""
    service.behind.trouble = trouble

    async def listen() -> None:
        async for _ in service.by(way).ChatStream(question("gpt")):
            heard.set()

    heard = asyncio.Event()
    listening = asyncio.ensure_future(listen())
    await (service.behind.asked if trouble == "silent" else heard).wait()
    listening.cancel()
    async with asyncio.timeout(20):
        await service.behind.left.wait()


@ways
async def test_a_deadline_stops_the_provider(service: Service, way: str):
    """Nobody waits for the answer any more, so nobody works on it."""
    service.behind.trouble = "silent"
    # Where the machine is slow, a short time may be over before the provider is asked.
    for seconds in (0.2, 1, 5):
        with pytest.raises(DeadlineExceeded):
            await service.by(way).Chat(question("gpt"), timeout=seconds)
        if service.behind.asked.is_set():
            break
    async with asyncio.timeout(20):
        await service.behind.left.wait()


@ways
async def test_a_stream_that_breaks_ends_with_the_error(service: Service, way: str):
    """After what was said until then."""
    service.behind.trouble = "die"
    events = service.by(way).ChatStream(question("ollama"))
    assert (await anext(aiter(events))).deltas[0].content == "You"
    with pytest.raises(Unavailable, match="OLLAMA_ERROR"):
        _ = [event async for event in events]


async def test_errors_keep_their_codes(service: Service):
    """Unknown models, empty messages, bad JSON."""
    with pytest.raises(Invalid, match="MODEL_NOT_FOUND"):
        await service.lane.Chat(question("tinyllama"))
    with pytest.raises(Invalid, match="VALIDATION_ERROR"):
        await service.lane.Chat(llm_pb2.ChatRequest())
    with pytest.raises(Invalid, match="VALIDATION_ERROR"):
        await service.lane.Chat(question(options=b"{"))


async def test_the_circuit_opens_for_one_provider(service: Service):
    """The others go on; the state is listed."""
    service.behind.trouble = "500"
    for _ in range(2):
        with pytest.raises(Unavailable, match="OLLAMA_ERROR"):
            await service.peer.Chat(question("ollama"))
    with pytest.raises(Unavailable, match="CIRCUIT_OPEN") as refused:
        await service.peer.Chat(question("ollama"))
    assert refused.value.retry_after_seconds
    assert (await service.peer.Chat(question("echo"))).provider == "echo"
    listed = await service.peer.ListProviders(llm_pb2.ListProvidersRequest())
    assert {p.name: p.circuit for p in listed.providers} == {"ollama": "open", "openai": "closed", "echo": "closed"}


async def test_models_are_listed(service: Service):
    """Over all providers; Ollama is there, so it is the default."""
    await service.peer.Chat(question(""))
    listed = await service.peer.ListModels(llm_pb2.ListModelsRequest())
    assert listed.default_model == MODEL
    models = {(model.provider, model.name): model for model in listed.models}
    assert set(models) == {
        ("ollama", "big:7b"), ("ollama", MODEL), ("openai", MODEL), ("openai", "big"), ("echo", "echo"),
    }  # fmt: skip
    assert models["ollama", MODEL].status == "loaded"
    assert models["ollama", MODEL].HasField("last_used_at")
    assert not models["echo", "echo"].HasField("last_used_at")


async def test_a_key_needs_the_database(service: Service):
    """What cannot be promised is refused; nothing else suffers."""
    with pytest.raises(Unavailable, match="DATABASE_ERROR"):
        await service.peer.Chat(question(idempotency_key="k"))
    assert service.behind.received == []


@pytest.mark.postgres
async def test_keys_and_usage(database_url: str):
    """A repeated request is answered once and charged once; usage is written by the time the service has drained."""
    await asyncio.to_thread(migrations.upgrade, "llm", Postgres(url=database_url))
    async with upstream() as behind, running(database_url, behind) as service:
        first = await service.peer.Chat(question(idempotency_key="k"))
        assert await service.lane.Chat(question(idempotency_key="k")) == first
        assert len(behind.received) == 1
        with pytest.raises(Conflict, match="IDEMPOTENCY_MISMATCH"):
            await service.peer.Chat(question(idempotency_key="k", temperature=1.0))
        await service.host.drain()
    async with upstream() as behind, running(database_url, behind) as service:
        assert await service.peer.Chat(question(idempotency_key="k")) == first
        usage = await service.peer.GetUsage(llm_pb2.GetUsageRequest(user_id="u"))
        assert [(m.model, m.requests, m.input_tokens, m.output_tokens) for m in usage.models] == [(MODEL, 1, 2, 4)]
