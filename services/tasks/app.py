"""Builds the process: stores, broker, relay, operations, loops, and last the server."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from mesh.tasks.v1.tasks_pb2_grpc import add_TaskServiceServicer_to_server, add_WorkerServiceServicer_to_server
from ulid import ULID

from chassis.database import open_database
from chassis.lifecycle import Host
from chassis.messaging.connection import open_broker
from chassis.messaging.outbox import Relay
from chassis.messaging.publisher import Publisher
from chassis.rpc.server import open_server
from services.tasks.config import Settings
from services.tasks.model.states import Due
from services.tasks.model.work import WaitingPointer
from services.tasks.operations.batches import Batcher
from services.tasks.operations.desk import Desk
from services.tasks.operations.feeder import Feeder
from services.tasks.operations.figures import Figures, Limits
from services.tasks.operations.intake import Intake
from services.tasks.operations.queries import Queries
from services.tasks.operations.schedules import FIRE_EVERY_SECONDS, Schedules
from services.tasks.operations.upkeep import Upkeep, repeat
from services.tasks.operations.watches import STOPS_EVERY_SECONDS, Watches
from services.tasks.peers import BrokerQueues
from services.tasks.rpc.tasks import TaskService
from services.tasks.rpc.workers import WorkerService
from services.tasks.store.store import Store
from services.tasks.tables import outbox_events
from services.tasks.wire.messages import changed_message, pointer_message

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
    relay = Relay(database, outbox_events, Publisher(broker), host.clock)
    waker = Waker()
    store = Store(database, changed_message, waker.wake, keys_live_seconds=settings.tasks.idempotency_key_seconds)
    limits = Limits(most=settings.tasks.most_queued, by_group=settings.tasks.limits_by_group)
    figures = Figures(
        store, host.clock, lambda: relay.backlog, limits=limits, most_unpublished=settings.tasks.most_unpublished
    )
    intake = Intake(store, figures, host.clock, lambda: f"task_{ULID()}")
    queues = BrokerQueues(broker, settings.rabbit.queue_type)
    desk = Desk(store, figures, queues, lambda: f"ses_{ULID()}")
    watches = Watches(store, lambda: f"watch_{ULID()}")
    schedules = Schedules(store, intake, figures, clock=host.clock, new_schedule_id=lambda: f"sched_{ULID()}")
    upkeep = Upkeep(
        store,
        figures,
        queues=queues,
        instance=host.instance,
        clock=host.clock,
        retained_days=settings.tasks.retained_days,
    )
    feeder = Feeder(store, queues, figures, partial(_publish, Publisher(broker)), clock=host.clock)
    waker.tell(work=feeder.wake, news=relay.wake, timers=upkeep.wake_timers, stops=watches.awake.set)
    host.spawn("news", relay.run())
    host.spawn("pointers", feeder.run())
    host.spawn("schedules", repeat("schedules", FIRE_EVERY_SECONDS, schedules.fire))
    host.spawn("watches", repeat("watches", STOPS_EVERY_SECONDS, watches.push, watches.awake))
    _spawn_writers(host, accepting=intake.batcher, claiming=desk.claims, finishing=desk.outcomes)
    queries = Queries(store, figures, host.clock)
    for name, loop in upkeep.loops().items():
        host.spawn(name, loop())
    await host.enter(
        open_server(
            host,
            settings.rpc,
            settings.discovery,
            register=[
                partial(add_TaskServiceServicer_to_server, TaskService(intake, queries, schedules)),
                partial(add_WorkerServiceServicer_to_server, WorkerService(desk, watches)),
            ],
        )
    )
    # Last, so that it comes first: the server waits for its streams to end.
    host.on_drain("watches", watches.close)


def _spawn_writers(host: Host, **batchers: Batcher[Any, Any]) -> None:
    for name, batcher in batchers.items():
        for number in range(_WRITERS):
            host.spawn(f"{name}-{number}", batcher.run())


class Waker:
    """Wakes at once who has something to do after a commit; the relay of the news a little later, for many together."""

    def __init__(self) -> None:
        self._targets: dict[Due, Callable[[], None]] = {}
        self._news_waits = False

    def tell(
        self,
        *,
        work: Callable[[], None],
        news: Callable[[], None],
        timers: Callable[[], None],
        stops: Callable[[], None],
    ) -> None:
        """Whom to wake; they need the store themselves."""
        self._targets = {Due.WORK: work, Due.NEWS: news, Due.TIMERS: timers, Due.STOPS: stops}

    def wake(self, due: Collection[Due]) -> None:
        """Something of these was committed."""
        for one in due:
            if one is not Due.NEWS:
                self._targets[one]()
            elif not self._news_waits:
                self._news_waits = True
                asyncio.get_running_loop().call_later(_NEWS_WAIT_SECONDS, self._wake_news)

    def _wake_news(self) -> None:
        self._news_waits = False
        self._targets[Due.NEWS]()


async def _publish(publisher: Publisher, pointers: Sequence[WaitingPointer]) -> list[bool]:
    return await publisher.publish_many([pointer_message(pointer) for pointer in pointers])
