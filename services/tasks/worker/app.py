"""The only place that builds things: the broker, the way to the tasks service, the handlers and the runner."""

from mesh.tasks.v1 import tasks_pb2_grpc

from chassis.lifecycle import Host
from chassis.messaging.connection import open_broker
from chassis.rpc.peer import open_peer
from services.tasks.worker.handlers.actions import Automation
from services.tasks.worker.handlers.fetching import Fetcher
from services.tasks.worker.handlers.sentiment import Sentiment
from services.tasks.worker.settings import Settings
from worker import Kind, RabbitFeed, Runner

GROUP = "builtin"


async def build(settings: Settings, host: Host) -> None:
    """Opens everything, in the order in which it is needed."""
    broker = await host.enter(open_broker(settings.rabbit, name=host.instance))
    host.health.add("rabbitmq", broker.ping)
    tasks = await host.enter(open_peer(host, "tasks", settings.discovery))
    kinds = {
        "sentiment_analysis": Kind(handler=Sentiment(host.clock).handle, max_attempts=3, timeout_seconds=60),
        "automation": Kind(
            handler=Automation(Fetcher(settings.working.allowed)).handle, max_attempts=3, timeout_seconds=300
        ),
    }
    slots = settings.working.slots
    feed = RabbitFeed(broker, GROUP, slots, settings.rabbit.queue_type)
    runner = Runner(host, tasks_pb2_grpc.WorkerServiceStub(tasks), feed, name=host.instance, kinds=kinds, slots=slots)
    await host.enter(runner.open())
