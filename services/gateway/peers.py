"""The services the gateway calls, as typed stubs. Knows who they are and how they are reached, not what they say."""

from dataclasses import dataclass

from mesh.agents.v1 import agents_pb2_grpc
from mesh.llm.v1 import llm_pb2_grpc
from mesh.ratelimit.v1 import ratelimit_pb2_grpc
from mesh.tasks.v1 import tasks_pb2_grpc, webhooks_pb2_grpc

from chassis.config import Discovery
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane
from chassis.rpc.peer import open_peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """One stub a face. `llm` runs over a lane, because every chat goes through it, and so does `task_lane`, for single
    submissions; the others over plain calls.

    Decisions of `ratelimit` have a lane of their own, at the edge.
    """

    agents: "agents_pb2_grpc.AgentServiceAsyncStub"
    tasks: "tasks_pb2_grpc.TaskServiceAsyncStub"
    task_lane: "tasks_pb2_grpc.TaskServiceAsyncStub"
    webhooks: "webhooks_pb2_grpc.WebhookServiceAsyncStub"
    workers: "tasks_pb2_grpc.WorkerServiceAsyncStub"
    llm: "llm_pb2_grpc.LlmServiceAsyncStub"
    ratelimit: "ratelimit_pb2_grpc.RatelimitServiceAsyncStub"


async def open_peers(host: Host, discovery: Discovery) -> Peers:
    """Opens the ways to all peers for the life of the process. A peer that is away fails its calls, nothing else."""
    agents = await host.enter(open_peer(host, "agents", discovery))
    tasks = await host.enter(open_peer(host, "tasks", discovery))
    ratelimit = await host.enter(open_peer(host, "ratelimit", discovery))
    lane = await host.enter(open_lane(host, "llm", discovery))
    task_lane = await host.enter(open_lane(host, "tasks", discovery))
    return Peers(
        agents=agents_pb2_grpc.AgentServiceStub(agents),
        tasks=tasks_pb2_grpc.TaskServiceStub(tasks),
        task_lane=tasks_pb2_grpc.TaskServiceStub(task_lane),
        webhooks=webhooks_pb2_grpc.WebhookServiceStub(tasks),
        workers=tasks_pb2_grpc.WorkerServiceStub(tasks),
        llm=llm_pb2_grpc.LlmServiceStub(lane),
        ratelimit=ratelimit_pb2_grpc.RatelimitServiceStub(ratelimit),
    )
