"""The agents service over real stores and a real tasks service: executions from start to end, and through trouble."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc.aio
import pytest
from mesh.agents.v1 import agents_pb2 as pb
from mesh.agents.v1 import agents_pb2_grpc, events_pb2

from chassis import telemetry
from chassis.config import Rabbit
from chassis.messaging.connection import open_broker
from chassis.messaging.consumer import Consumer, Delivery
from chassis.messaging.message import Message
from chassis.messaging.topology import events_queue
from tests.integration.agents.conftest import Thinker
from tests.integration.worker.processes import Mesh, Tasks
from tests.support.otlp import Receiver

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]

Agents: TypeAlias = "agents_pb2_grpc.AgentServiceAsyncStub"


async def _two_active(agents: Agents) -> list[str]:
    ids = []
    for name in ("Ada", "Bob"):
        created = await agents.CreateAgent(pb.CreateAgentRequest(name=name, role="Tester", description=f"Is {name}."))
        await agents.UpdateAgent(pb.UpdateAgentRequest(id=created.agent.id, status="active"))
        ids.append(created.agent.id)
    return ids


async def _until(
    agents: Agents, execution_id: str, condition: Callable[[pb.Execution], bool] = lambda one: one.status != "started"
) -> pb.Execution:
    async with asyncio.timeout(60):
        while True:
            execution = (await agents.GetExecution(pb.GetExecutionRequest(id=execution_id))).execution
            if condition(execution):
                return execution
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _hearing(mesh: Mesh) -> AsyncIterator[list[Message]]:
    heard: list[Message] = []

    async def handle(delivery: Delivery) -> None:
        heard.append(delivery.message)
        await delivery.ack()

    subscribed = asyncio.Event()
    queue = events_queue("test-events", ["agents.#"], exclusive=True)
    async with open_broker(Rabbit(url=mesh.environment["AMQP_URL"]), name="test") as broker:
        consumer = Consumer(broker, queue=queue, prefetch=1, handle=handle, on_subscribed=lambda _: subscribed.set())
        async with consumer.open():
            await subscribed.wait()
            yield heard


async def test_a_parallel_execution_tells_its_story_in_order(mesh: Mesh, agents: Agents) -> None:
    """Started, two runs, finished: numbered without a gap, and the log and the figures agree."""
    async with _hearing(mesh) as heard:
        ids = await _two_active(agents)
        started = await agents.Execute(pb.ExecuteRequest(agent_ids=ids, parallel=True, owner_id="u1", input="Hello"))
        execution = await _until(agents, started.execution.id)
        async with asyncio.timeout(30):
            while not heard or heard[-1].routing_key != "agents.execution.finished":
                await asyncio.sleep(0.05)
    story = [message for message in heard if message.subject == execution.id]
    assert [message.routing_key.removeprefix("agents.") for message in story] == [
        "execution.started", "run.finished", "run.finished", "execution.finished",
    ]  # fmt: skip
    assert [message.sequence for message in story] == [1, 2, 3, 4]
    end = events_pb2.ExecutionFinished.FromString(story[-1].body)
    assert (end.total_agents, end.successful, end.failed) == (2, 2, 0)
    assert {run.status for run in execution.runs} == {"success"}
    agent = (await agents.GetAgent(pb.GetAgentRequest(id=ids[0]))).agent
    assert (agent.runs, agent.successful_runs) == (1, 1)


async def test_an_agent_is_served_at_the_address_of_a_live_runner(mesh: Mesh, agents: Agents) -> None:
    """As soon as the process takes work."""
    agent_id, _ = await _two_active(agents)
    async with asyncio.timeout(30):
        while not (agent := (await agents.GetAgent(pb.GetAgentRequest(id=agent_id))).agent).served:
            await asyncio.sleep(0.05)
    assert f"127.0.0.1:{agent.port}" == mesh.environment["AGENTS_ADDRESS"]


async def test_an_ordered_execution_asks_one_after_the_other(agents: Agents, thinker: tuple[Thinker, int]) -> None:
    """In order: the second agent starts when the first has ended."""
    thinker[0].seconds = 0.5
    ids = await _two_active(agents)
    started = await agents.Execute(pb.ExecuteRequest(agent_ids=ids, owner_id="u1"))
    assert [bool(run.task_id) for run in started.execution.runs] == [True, False]
    first, second = (await _until(agents, started.execution.id)).runs
    assert first.finished_at.ToDatetime() <= second.started_at.ToDatetime()
    assert [request.idempotency_key for request in thinker[0].asked] == [f"{first.id}:answer", f"{second.id}:answer"]


async def test_the_same_key_gives_the_same_execution(agents: Agents) -> None:
    """A repeated request starts nothing new; the key with another request is refused."""
    ids = await _two_active(agents)
    request = pb.ExecuteRequest(agent_ids=ids, owner_id="u1", idempotency_key="k")
    first, again = await agents.Execute(request), await agents.Execute(request)
    assert first.execution.id == again.execution.id
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await agents.Execute(pb.ExecuteRequest(agent_ids=ids[:1], owner_id="u1", idempotency_key="k"))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (await agents.ListRuns(pb.ListRunsRequest(owner_id="u1"))).total == 2


async def test_a_failing_agent_does_not_stop_the_others(agents: Agents, thinker: tuple[Thinker, int]) -> None:
    """A permanent failure ends its run with a reason; the other run succeeds, and the figures know both."""
    thinker[0].refuses = "Is Ada."
    ids = await _two_active(agents)
    started = await agents.Execute(pb.ExecuteRequest(agent_ids=ids, parallel=True, owner_id="u1"))
    execution = await _until(agents, started.execution.id)
    assert [run.status for run in execution.runs] == ["failed", "success"]
    assert execution.runs[0].error
    summary = await agents.GetSummary(pb.GetSummaryRequest())
    assert (summary.agents, summary.active_agents, summary.runs, summary.successful_runs) == (4, 4, 2, 1)


async def test_a_slow_agent_times_out(agents: Agents, thinker: tuple[Thinker, int]) -> None:
    """A run that takes longer than its time ends as a timeout."""
    thinker[0].seconds = 30
    ids = await _two_active(agents)
    request = pb.ExecuteRequest(agent_ids=ids[:1], parallel=True, owner_id="u1", timeout_seconds=1)
    execution = await _until(agents, (await agents.Execute(request)).execution.id)
    assert [run.status for run in execution.runs] == ["timeout"]


async def test_an_execution_can_be_cancelled(agents: Agents, thinker: tuple[Thinker, int]) -> None:
    """What has not started ends at once, what runs is stopped, and the execution is cancelled."""
    thinker[0].seconds = 60
    ids = await _two_active(agents)
    started = await agents.Execute(pb.ExecuteRequest(agent_ids=ids, owner_id="u1"))
    await _until(agents, started.execution.id, lambda one: one.runs[0].status == "running")
    await agents.CancelExecution(pb.CancelExecutionRequest(id=started.execution.id, owner_id="u1"))
    execution = await _until(agents, started.execution.id)
    assert (execution.status, [run.status for run in execution.runs]) == ("cancelled", ["cancelled", "cancelled"])


async def test_what_could_not_be_submitted_is_submitted_later(mesh: Mesh, agents: Agents) -> None:
    """The tasks service is away when an execution is wanted: it is accepted, and completes once tasks is back."""
    ids = await _two_active(agents)
    warm = await agents.Execute(pb.ExecuteRequest(agent_ids=ids, parallel=True, owner_id="u1"))
    await _until(agents, warm.execution.id)
    await mesh.services["services.tasks"].kill()
    started = await agents.Execute(pb.ExecuteRequest(agent_ids=ids, parallel=True, owner_id="u1"), timeout=60)
    assert [run.task_id for run in started.execution.runs] == ["", ""]
    await mesh.services["services.tasks"].start()
    execution = await _until(agents, started.execution.id)
    assert {run.status for run in execution.runs} == {"success"}


async def test_a_killed_agents_process_pays_once(
    mesh: Mesh, agents: Agents, tasks: Tasks, thinker: tuple[Thinker, int]
) -> None:
    """Kill -9 while an agent thinks: the next process asks again with the same key, and the run succeeds once."""
    thinker[0].seconds = 3
    ids = await _two_active(agents)
    started = await agents.Execute(pb.ExecuteRequest(agent_ids=ids[:1], parallel=True, owner_id="u1"))
    await tasks.until_running(started.execution.runs[0].task_id)
    await mesh.services["services.agents"].kill()
    await mesh.services["services.agents"].start()
    execution = await _until_again(mesh, started.execution.id)
    assert [run.status for run in execution.runs] == ["success"]
    assert len(thinker[0].answers) == 1
    assert len({request.idempotency_key for request in thinker[0].asked}) == 1


async def _until_again(mesh: Mesh, execution_id: str) -> pb.Execution:
    channel = await mesh.channel(mesh.environment["AGENTS_ADDRESS"])
    return await _until(agents_pb2_grpc.AgentServiceStub(channel), execution_id)


async def test_the_built_in_agents_exist_and_names_are_unique(agents: Agents) -> None:
    """Two agents from the start; a taken name is refused on creation and on renaming."""
    listed = await agents.ListAgents(pb.ListAgentsRequest())
    assert [agent.id for agent in listed.agents] == ["task-coordinator", "ai-orchestrator"]
    assert list(listed.agents[0].capabilities) == ["task_distribution", "priority_queue"]
    first, _ = await _two_active(agents)
    for call in (
        agents.CreateAgent(pb.CreateAgentRequest(name="Bob")),
        agents.UpdateAgent(pb.UpdateAgentRequest(id=first, name="Bob")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await agents.DeleteAgent(pb.DeleteAgentRequest(id=first))
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await agents.GetAgent(pb.GetAgentRequest(id=first))
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND


async def test_one_trace_covers_an_execution(agents: Agents, traces: Receiver) -> None:
    """Both runs, the one submitted at once and the one submitted later, belong to the trace of the request."""
    ids = await _two_active(agents)
    traceparent = telemetry.new_traceparent(sampled=True)
    started = await agents.Execute(
        pb.ExecuteRequest(agent_ids=ids, owner_id="u1"), metadata=(("traceparent", traceparent),)
    )
    await _until(agents, started.execution.id)

    def names() -> list[tuple[str, str]]:
        return [(span.service, span.name) for span in traces.spans if span.trace_id == traceparent[3:35]]

    async with asyncio.timeout(20):
        while names().count(("agents", "task agent.run")) < 2 or "tasks" not in traces.services(traceparent[3:35]):
            await asyncio.sleep(0.05)
