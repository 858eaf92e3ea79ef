"""Builds the process: stores, broker, relay, operations, loops, and last the server."""

import asyncio
from collections.abc import Sequence
from functools import partial

from mesh.tasks.v1.tasks_pb2_grpc import add_TaskServiceServicer_to_server, add_WorkerServiceServicer_to_server
from ulid import ULID

from chassis.database import open_database
from chassis.lifecycle import Host
from chassis.messaging.connection import open_broker
from chassis.messaging.outbox import Relay
from chassis.messaging.publisher import Publisher
from chassis.rpc.server import open_server
from services.tasks import wire
from services.tasks.config import Settings
from services.tasks.operations.desk import Desk
from services.tasks.operations.figures import Figures
from services.tasks.operations.intake import Intake
from services.tasks.operations.queries import Queries
from services.tasks.operations.upkeep import Upkeep
from services.tasks.peers import BrokerQueues
from services.tasks.rpc.tasks import TaskService
from services.tasks.rpc.workers import WorkerService
from services.tasks.store.store import Store
from services.tasks.tables import outbox, outbox_events

# A second writer begins when a full batch waits, so that one commit's wait is the other's work.
_WRITERS = 2
# News may be that late, so that many commits share one round to the broker and back.
_NEWS_WAIT_SECONDS = 0.01


async def build(settings: Settings, host: Host) -> None:
    """Opens everything this process is made of."""
    database = await host.enter(open_database(settings.postgres, schema="tasks"))
    host.health.add("postgres", database.ping)
    broker = await host.enter(open_broker(settings.rabbit, name=host.instance))
    host.health.add("rabbitmq", broker.ping)
    relays = [Relay(database, table, Publisher(broker), host.clock) for table in (outbox, outbox_events)]
    store = Store(
        database, wire.messages_of, Waker(relays).wake, keys_live_seconds=settings.tasks.idempotency_key_seconds
    )
    figures = Figures(
        store,
        host.clock,
        partial(_backlog, relays),
        most_queued=settings.tasks.most_queued,
        most_unpublished=settings.tasks.most_unpublished,
    )
    intake = Intake(store, figures, host.clock, lambda: f"task_{ULID()}")
    queues = BrokerQueues(broker, settings.rabbit.queue_type)
    desk = Desk(store, figures, queues, lambda: f"ses_{ULID()}")
    upkeep = Upkeep(store, figures, backlog=partial(_backlog, relays), queues=queues, instance=host.instance)
    for number, relay in enumerate(relays):
        host.spawn(f"relay-{number}", relay.run())
    for name, batcher in (("accepting", intake.batcher), ("claiming", desk.claims), ("finishing", desk.outcomes)):
        for number in range(_WRITERS):
            host.spawn(f"{name}-{number}", batcher.run())
    for name, loop in upkeep.loops().items():
        host.spawn(name, loop())
    await host.enter(
        open_server(
            host,
            settings.rpc,
            settings.discovery,
            register=[
                partial(add_TaskServiceServicer_to_server, TaskService(intake, Queries(store, figures))),
                partial(add_WorkerServiceServicer_to_server, WorkerService(desk)),
            ],
        )
    )


class Waker:
    """Wakes the relay of the pointers at once, and that of the news a little later, for many commits together."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        self._work, self._news = relays
        self._waiting = False

    def wake(self, has_work: bool, has_news: bool) -> None:  # noqa: FBT001 - the store says just this
        """Something of these was committed."""
        if has_work:
            self._work.wake()
        if has_news and not self._waiting:
            self._waiting = True
            asyncio.get_running_loop().call_later(_NEWS_WAIT_SECONDS, self._wake_news)

    def _wake_news(self) -> None:
        self._waiting = False
        self._news.wake()


def _backlog(relays: Sequence[Relay]) -> int:
    return sum(relay.backlog for relay in relays)
