"""Builds the process: stores, broker, relay, operations, loops, and last the server."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from mesh.tasks.v1.tasks_pb2_grpc import add_TaskServiceServicer_to_server, add_WorkerServiceServicer_to_server
from mesh.tasks.v1.webhooks_pb2_grpc import add_WebhookServiceServicer_to_server

from chassis.database import open_database
from chassis.lifecycle import Host
from chassis.messaging.connection import Broker, open_broker
from chassis.messaging.outbox import Form, Relay
from chassis.messaging.publisher import Publisher
from chassis.rpc.server import open_server
from services.tasks.config import Settings
from services.tasks.model.ids import Ids
from services.tasks.model.states import Due
from services.tasks.model.work import WaitingPointer
from services.tasks.operations.batches import Batcher
from services.tasks.operations.deliveries import PRUNE_EVERY_SECONDS, Couriers
from services.tasks.operations.desk import Desk
from services.tasks.operations.direct import BURSTS, Direct
from services.tasks.operations.feeder import Feeder
from services.tasks.operations.figures import Figures, Limits
from services.tasks.operations.intake import Intake
from services.tasks.operations.offers import GIVE_BACK_EVERY_SECONDS, Offers
from services.tasks.operations.queries import Queries
from services.tasks.operations.schedules import FIRE_EVERY_SECONDS, Schedules
from services.tasks.operations.upkeep import Upkeep, repeat
from services.tasks.operations.watches import STOPS_EVERY_SECONDS, Watches
from services.tasks.operations.webhooks import Webhooks
from services.tasks.peers.addresses import Guard, Resolver
from services.tasks.peers.endpoints import open_endpoints
from services.tasks.peers.queues import BrokerQueues
from services.tasks.rpc.tasks import TaskService
from services.tasks.rpc.webhooks import WebhookService
from services.tasks.rpc.workers import WorkerService
from services.tasks.store.news import COLUMNS
from services.tasks.store.store import HOT_PLANNER, PLANNER, Store
from services.tasks.tables import news
from services.tasks.wire.messages import news_messages, pointers_message

# A second writer begins when a full batch waits, so that one commit's wait is the other's work.
_WRITERS = 2
# News wait a little for those of the next commits, and longer when the last went a moment ago: many share one round to
# the broker and back.
_NEWS_WAIT_SECONDS = 0.005
_NEWS_PACE_SECONDS = 0.025

# A statement whose connection broke goes on in the database until its time is over; then its end has to be seen.
_DOUBT_MORE_SECONDS = 5.0

_NEWS = Form(COLUMNS, news_messages, most=50)


async def build(settings: Settings, host: Host) -> None:
    """Opens everything this process is made of."""
    database = await host.enter(open_database(settings.postgres, schema="tasks", planner=PLANNER))
    host.health.add("postgres", database.ping)
    broker = await host.enter(open_broker(settings.rabbit, name=host.instance))
    host.health.add("rabbitmq", broker.ping)
    relay = Relay(database, news, Publisher(broker), host.clock, _NEWS)
    waker = Waker()
    hot = await host.enter(open_database(settings.postgres, schema="tasks", planner=HOT_PLANNER))
    store = Store(database, waker.wake, keys_live_seconds=settings.tasks.idempotency_key_seconds, hot=hot)
    figures = _make_figures(settings, host, store, relay)
    queues = BrokerQueues(broker, settings.rabbit.queue_type)
    feeder = Feeder(store, queues, figures, partial(_publish, Publisher(broker)), clock=host.clock)
    direct = _start_pointers(host, store, feeder, broker)
    desk = Desk(store, figures, queues, partial(Ids().new, "ses"))
    offers = _start_offers(settings, host, store, desk)
    intake = _start_intake(host, store, figures, direct, offers)
    watches = _start_watches(host, store)
    schedules = Schedules(store, intake, figures, clock=host.clock, new_schedule_id=partial(Ids().new, "sched"))
    couriers, webhooks = await _open_webhooks(settings, host, store)
    upkeep = _start_upkeep(settings, host, store, figures, queues)
    waker.targets = {
        Due.WORK: feeder.wake,
        Due.NEWS: relay.wake,
        Due.TIMERS: upkeep.wake_timers,
        Due.STOPS: watches.awake.set,
        Due.DELIVERIES: couriers.awake.set,
    }
    host.spawn("news", relay.run())
    host.spawn("schedules", repeat("schedules", FIRE_EVERY_SECONDS, schedules.fire))
    _spawn_writers(host, **desk.batchers)
    tasks = TaskService(intake, Queries(store, figures, host.clock), schedules)
    await host.enter(
        open_server(
            host,
            settings.rpc,
            settings.discovery,
            register=[
                partial(add_TaskServiceServicer_to_server, tasks),
                partial(add_WorkerServiceServicer_to_server, WorkerService(desk, watches, offers)),
                partial(add_WebhookServiceServicer_to_server, WebhookService(webhooks, host.clock)),
            ],
            starts=tasks.starts,
        )
    )
    # Last, so that they come first: the server waits for its streams to end.
    host.on_drain("watches", watches.close)
    host.on_drain("offers", offers.close)


def _make_figures(settings: Settings, host: Host, store: Store, relay: Relay) -> Figures:
    limits = Limits(most=settings.tasks.most_queued, by_group=settings.tasks.limits_by_group)
    most_unpublished = settings.tasks.most_unpublished
    return Figures(store, host.clock, lambda: relay.backlog, limits=limits, most_unpublished=most_unpublished)


def _start_pointers(host: Host, store: Store, feeder: Feeder, broker: Broker) -> Direct:
    direct = Direct(store, feeder, partial(_publish, Publisher(broker)), clock=host.clock)
    host.on_drain("direct", direct.close)
    host.spawn("pointers", feeder.run())
    host.spawn("direct-tidy", direct.tidy())
    for number in range(BURSTS):
        host.spawn(f"direct-{number}", direct.run())
    return direct


def _start_watches(host: Host, store: Store) -> Watches:
    watches = Watches(store, partial(Ids().new, "watch"))
    host.spawn("watches", repeat("watches", STOPS_EVERY_SECONDS, watches.push, watches.awake))
    return watches


def _start_offers(settings: Settings, host: Host, store: Store, desk: Desk) -> Offers:
    doubt_seconds = settings.postgres.statement_timeout_seconds + _DOUBT_MORE_SECONDS
    offers = Offers(store, desk.hand_back, host.clock, doubt_seconds=doubt_seconds)
    host.spawn("offers", repeat("offers", GIVE_BACK_EVERY_SECONDS, offers.give_back, offers.awake))
    return offers


def _start_intake(host: Host, store: Store, figures: Figures, direct: Direct, offers: Offers) -> Intake:
    intake = Intake(store, figures, host.clock, partial(Ids().new, "task"), direct=direct, offers=offers)
    _spawn_writers(host, accepting=intake.batcher)
    if intake.lobby is not None:
        host.spawn("lobby", intake.lobby.run())
    return intake


def _start_upkeep(settings: Settings, host: Host, store: Store, figures: Figures, queues: BrokerQueues) -> Upkeep:
    retained_days = settings.tasks.retained_days
    upkeep = Upkeep(
        store, figures, queues=queues, instance=host.instance, clock=host.clock, retained_days=retained_days
    )
    for name, loop in upkeep.loops().items():
        host.spawn(name, loop())
    return upkeep


async def _open_webhooks(settings: Settings, host: Host, store: Store) -> tuple[Couriers, Webhooks]:
    bounds = settings.webhooks.bounds
    guard = Guard(settings.webhooks.networks, allow_http=settings.webhooks.allow_http)
    opened = open_endpoints(guard, Resolver(guard), host.clock, timeout_seconds=bounds.timeout_seconds)
    post = await host.enter(opened)
    couriers = Couriers(store, post, clock=host.clock, bounds=bounds)
    host.spawn("webhooks", couriers.run())
    host.spawn("webhook-log", repeat("webhook-log", PRUNE_EVERY_SECONDS, couriers.prune))
    host.on_drain("webhooks", couriers.drain)
    webhooks = Webhooks(
        store,
        store,
        post,
        clock=host.clock,
        most_per_owner=settings.webhooks.most_per_owner,
        new_id=partial(Ids().new, "hook"),
        new_event_id=partial(Ids().new, "evt_ping"),
    )
    return couriers, webhooks


def _spawn_writers(host: Host, **batchers: Batcher[Any, Any]) -> None:
    for name, batcher in batchers.items():
        for number in range(_WRITERS):
            host.spawn(f"{name}-{number}", batcher.run())


class Waker:
    """Wakes at once who has something to do after a commit; the relay of the news a little later, for many together."""

    def __init__(self) -> None:
        # Set when all is built: those who are woken need the store themselves.
        self.targets: dict[Due, Callable[[], None]] = {}
        self._news_waits = False
        self._news_went_at = float("-inf")

    def wake(self, due: Collection[Due]) -> None:
        """Something of these was committed."""
        for one in due:
            if one is not Due.NEWS:
                self.targets[one]()
            elif not self._news_waits:
                self._news_waits = True
                loop = asyncio.get_running_loop()
                at = max(loop.time() + _NEWS_WAIT_SECONDS, self._news_went_at + _NEWS_PACE_SECONDS)
                loop.call_at(at, self._wake_news)

    def _wake_news(self) -> None:
        self._news_waits = False
        self._news_went_at = asyncio.get_running_loop().time()
        self.targets[Due.NEWS]()


async def _publish(publisher: Publisher, bundles: Sequence[Sequence[WaitingPointer]]) -> list[bool]:
    return await publisher.publish_many([pointers_message(bundle) for bundle in bundles])
