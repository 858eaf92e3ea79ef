"""The only place that builds things: stores, peers, use-cases, the runner, the listener and the gRPC face."""

from collections.abc import Callable, Sequence
from functools import partial

import uuid_utils
from mesh.agents.v1 import agents_pb2_grpc
from mesh.llm.v1 import llm_pb2_grpc
from mesh.tasks.v1 import tasks_pb2_grpc, webhooks_pb2_grpc
from prometheus_client import REGISTRY

from chassis.database import Database, open_database
from chassis.lifecycle import Host
from chassis.messaging.connection import Broker, open_broker
from chassis.messaging.consumer import Consumer
from chassis.messaging.outbox import Relay
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import events_queue
from chassis.rpc.peer import open_peer
from chassis.rpc.server import open_server
from services.agents import tables
from services.agents.config import Settings
from services.agents.operations.executions import Engine
from services.agents.operations.registry import Registry
from services.agents.peers import LlmPeer, TasksPeer, Webhooks
from services.agents.rpc import AgentServicer
from services.agents.store.agents import AgentStore
from services.agents.store.executions import ExecutionStore
from services.agents.store.runners import RunnerStore
from services.agents.store.telling import Telling
from services.agents.wire import events, webhooks
from services.agents.worker.answering import GROUP, Answering
from services.agents.worker.developing import Developing
from services.agents.worker.news import Listener
from services.agents.worker.rounds import be_present, repair_for_ever
from worker import RabbitFeed, Runner

_NEWS_QUEUE = "agents.task-news"
# Fewer than the pool has connections, because news of one execution waits for each other at its lock.
_NEWS_AT_ONCE = 16


async def build(settings: Settings, host: Host) -> None:
    """Opens everything, in the order in which it is needed."""
    database = await host.enter(open_database(settings.postgres, tables.SCHEMA))
    broker = await host.enter(open_broker(settings.rabbit, name=host.instance))
    host.health.add("database", database.ping)
    host.health.add("rabbitmq", broker.ping)
    llm = await host.enter(open_peer(host, "llm", settings.discovery))
    tasks = await host.enter(open_peer(host, "tasks", settings.discovery))
    committed = _relay(host, database, broker, Webhooks(webhooks_pb2_grpc.WebhookServiceStub(tasks), REGISTRY))
    agents = AgentStore(
        database,
        Telling(announce=events.announce_agent, tell_owner=webhooks.tell_owner_of_agent, committed=committed),
    )
    executions = ExecutionStore(
        database, Telling(announce=events.announce, tell_owner=webhooks.tell_owner, committed=committed)
    )
    runners = RunnerStore(database)
    registry = Registry(agents, runners, LlmPeer(llm_pb2_grpc.LlmServiceStub(llm)), clock=host.clock, new_ids=_new_ids)
    engine = Engine(
        executions, agents, TasksPeer(tasks_pb2_grpc.TaskServiceStub(tasks)), clock=host.clock, new_ids=_new_ids
    )
    await _listen(settings, host, broker, engine)
    runner = await _run_agents(settings, host, broker, registry, tasks_pb2_grpc.WorkerServiceStub(tasks))
    register = [partial(agents_pb2_grpc.add_AgentServiceServicer_to_server, AgentServicer(registry, engine))]
    server = await host.enter(open_server(host, settings.rpc, settings.discovery, register=register))
    host.spawn("presence", be_present(runners, host.instance, server.port, lambda: runner.serving))
    repair = settings.running
    host.spawn(
        "repair",
        repair_for_ever(engine, every_seconds=repair.repair_every_seconds, quiet_seconds=repair.quiet_seconds),
    )


def _relay(host: Host, database: Database, broker: Broker, hooks: Webhooks) -> Callable[[], None]:
    """Relays both outboxes. Returns what wakes them after a commit."""
    relays = {
        "outbox": Relay(database, tables.outbox, Publisher(broker), host.clock),
        "owner-outbox": Relay(database, tables.owner_outbox, hooks, host.clock),
    }
    for name, relay in relays.items():
        host.spawn(name, relay.run())

    def wake() -> None:
        for relay in relays.values():
            relay.wake()

    return wake


async def _listen(settings: Settings, host: Host, broker: Broker, engine: Engine) -> None:
    queue = events_queue(_NEWS_QUEUE, events.NEWS_PATTERNS, queue_type=settings.rabbit.queue_type)
    listener = Listener(engine, _NEWS_AT_ONCE)
    await host.enter(Consumer(broker, queue=queue, prefetch=_NEWS_AT_ONCE, handle=listener.handle).open())


async def _run_agents(
    settings: Settings, host: Host, broker: Broker, registry: Registry, tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub"
) -> Runner:
    slots = settings.running.slots
    feed = RabbitFeed(broker, GROUP, slots, settings.rabbit.queue_type)
    kinds = {**Answering(registry).kinds(), **Developing(registry).kinds()}
    runner = Runner(host, tasks, feed, name=host.instance, kinds=kinds, slots=slots)
    return await host.enter(runner.open())


def _new_ids(count: int) -> Sequence[str]:
    """Sorted by the time of their making, which keeps the indexes compact."""
    return [str(uuid_utils.uuid7()) for _ in range(count)]
