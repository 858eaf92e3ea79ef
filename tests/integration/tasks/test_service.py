"""The whole process over real stores: gRPC in, pointers and events out, and what it does when the broker forgets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aio_pika
import grpc
import pytest
from mesh.tasks.v1 import events_pb2, tasks_pb2, tasks_pb2_grpc

from chassis.clock import SystemClock
from chassis.config import Discovery, Postgres, Rabbit, Rpc
from chassis.database import open_database
from chassis.errors import MeshError
from chassis.messaging.connection import open_broker
from chassis.messaging.consumer import Consumer
from chassis.messaging.delivery import Delivery
from chassis.messaging.topology import events_queue, work_queue
from chassis.rpc.status import from_rpc_error
from deploy.local.ports import free_port
from deploy.local.stores.rabbitmq import RabbitMQ
from services.tasks.app import build
from services.tasks.config import Settings
from services.tasks.operations.checks import check_draft
from services.tasks.store.store import Store
from tests.integration.tasks.core import draft
from tests.support.rpc import open_host

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]


@dataclass
class Service:
    """A running process as its callers and the bus see it."""

    tasks: "tasks_pb2_grpc.TaskServiceAsyncStub"
    work: "tasks_pb2_grpc.WorkerServiceAsyncStub"
    pointers: asyncio.Queue[tasks_pb2.Pointer] = field(default_factory=asyncio.Queue)
    events: list[events_pb2.TaskChanged] = field(default_factory=list)
    beating: list[asyncio.Future[None]] = field(default_factory=list)

    async def submit(self, **changes: object) -> tasks_pb2.SubmitResponse:
        values: dict[str, Any] = {"kind": "automation", "owner_id": "ann", "payload": b"{}", **changes}
        return await self.tasks.Submit(tasks_pb2.SubmitRequest(**values), timeout=20)

    async def open_session(self, *, beating: bool = True) -> str:
        spec = tasks_pb2.KindSpec(
            kind="automation", group="builtin", default_max_attempts=3, default_timeout_seconds=60
        )
        request = tasks_pb2.OpenSessionRequest(worker_name="w", host="h", kinds=[spec], slots=4)
        session_id = (await self.work.OpenSession(request, timeout=20)).session_id
        if beating:
            self.beating.append(asyncio.ensure_future(self._beat(session_id)))
        return session_id

    async def _beat(self, session_id: str) -> None:
        while True:
            await asyncio.sleep(2)
            await self.work.Heartbeat(tasks_pb2.HeartbeatRequest(session_id=session_id), timeout=20)

    async def take(self) -> tasks_pb2.Pointer:
        async with asyncio.timeout(60):
            return await self.pointers.get()

    async def on_pointer(self, delivery: Delivery) -> None:
        for pointer in tasks_pb2.Pointers.FromString(delivery.message.body).pointers:
            await self.pointers.put(pointer)
        await delivery.ack()

    async def on_event(self, delivery: Delivery) -> None:
        self.events += events_pb2.TasksChanged.FromString(delivery.message.body).changes
        await delivery.ack()


@asynccontextmanager
async def serving(database_url: str, amqp_url: str) -> AsyncIterator[Service]:
    port = free_port()
    settings = Settings(
        rpc=Rpc(port=port), discovery=Discovery(), postgres=Postgres(url=database_url), rabbit=Rabbit(url=amqp_url)
    )
    async with open_host("tasks") as host, open_broker(settings.rabbit, "test") as broker:
        await build(settings, host)
        await host.health.set_ready(True)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            service = Service(tasks_pb2_grpc.TaskServiceStub(channel), tasks_pb2_grpc.WorkerServiceStub(channel))
            subscribed: set[str] = set()
            pointers = Consumer(
                broker,
                queue=[work_queue("builtin", urgency) for urgency in range(4)],
                prefetch=10,
                handle=service.on_pointer,
                on_subscribed=subscribed.add,
            )
            events = Consumer(
                broker,
                queue=events_queue("test-events", ["tasks.task.#"], exclusive=True),
                prefetch=10,
                handle=service.on_event,
                on_subscribed=subscribed.add,
            )
            async with pointers.open(), events.open():
                await eventually(lambda: len(subscribed) == 5)
                yield service
                for beat in service.beating:
                    beat.cancel()
                await asyncio.gather(*service.beating, return_exceptions=True)


@pytest.fixture
async def service(tasks_url: str, amqp_url: str) -> AsyncIterator[Service]:
    async with serving(tasks_url, amqp_url) as running:
        yield running


async def delete_work_queues(amqp_url: str) -> None:
    """As an operator's mistake, or a disk that was wiped."""
    connection = await aio_pika.connect(amqp_url)
    channel = await connection.channel()
    for urgency in range(4):
        await channel.queue_delete(f"work.builtin.p{urgency}")
    await connection.close()


async def eventually(condition, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_task_from_submission_to_result(service: Service) -> None:
    """Over the wire: accepted, pointed at, claimed, ended, announced in order."""
    submitted = await service.submit(priority=tasks_pb2.PRIORITY_HIGH)
    session = await service.open_session()
    pointer = await service.take()
    assert (pointer.task_id, pointer.attempt) == (submitted.task.id, 0)
    claim = tasks_pb2.ClaimRequest(session_id=session, pointers=[pointer])
    (claimed,) = (await service.work.Claim(claim)).claimed
    assert (claimed.attempt, claimed.pointer_attempt, claimed.kind) == (1, 0, "automation")
    outcome = tasks_pb2.Outcome(task_id=claimed.task_id, attempt=1, result=b'{"done":1}')
    finished = await service.work.Finish(tasks_pb2.FinishRequest(session_id=session, outcomes=[outcome]))
    assert list(finished.stale) == []
    task = (await service.tasks.GetTask(tasks_pb2.GetTaskRequest(id=claimed.task_id, owner_id="ann"))).task
    assert (task.state, task.result) == (tasks_pb2.STATE_SUCCEEDED, b'{"done":1}')
    await eventually(lambda: len(service.events) == 3)
    assert [(one.type, one.sequence) for one in service.events] == [("queued", 1), ("started", 2), ("succeeded", 3)]
    assert service.events[-1].result == b'{"done":1}'


async def test_bad_requests_are_refused_with_their_reason(service: Service) -> None:
    """Each gets its code over the wire, and the process goes on."""
    for changes, code in (
        ({"kind": "nobody.knows"}, "UNKNOWN_KIND"),
        ({"payload": b"{"}, "VALIDATION_ERROR"),
        ({"payload": b'"\\ud800"'}, "VALIDATION_ERROR"),
        ({"payload": b'"' + b"x" * 262_144 + b'"'}, "PAYLOAD_TOO_LARGE"),
        ({"owner_id": "a\x00b"}, "VALIDATION_ERROR"),
        ({"priority": 9}, "VALIDATION_ERROR"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.submit(**changes)
        error = from_rpc_error(caught.value, "tasks")
        assert isinstance(error, MeshError)
        assert (changes, error.code) == (changes, code)
    assert (await service.submit()).queue_position == 1


async def test_what_was_committed_and_not_published_is_published_by_the_next_process(
    tasks_url: str, amqp_url: str
) -> None:
    """The accepting process dies between commit and publish; whoever comes next relays."""
    async with open_database(Postgres(url=tasks_url), schema="tasks") as database:
        store = Store(database, lambda _due: None)
        kind = (await store.read_kinds())[1]
        submission = check_draft(draft(), kind, "task_01J0000000000000000000000A", SystemClock().now())
        await store.accept([submission])
    async with serving(tasks_url, amqp_url) as service:
        assert (await service.take()).task_id == submission.task_id


async def test_a_broker_that_lost_its_queues_is_given_the_pointers_again(
    service: Service, tasks_url: str, amqp_url: str
) -> None:
    """The pointers are gone and so are the queues; the reconciler finds their tasks and sends new ones."""
    submitted = await service.submit()
    await service.take()
    await delete_work_queues(amqp_url)
    async with open_database(Postgres(url=tasks_url), schema="tasks") as database, database.driver() as pg:
        await pg.execute("UPDATE tasks.task_live SET enqueued_at = $1", SystemClock().now() - timedelta(minutes=1))
    assert (await service.take()).task_id == submitted.task.id


async def test_accepting_goes_on_while_the_broker_is_away(service: Service, rabbit_server: RabbitMQ) -> None:
    """Tasks stay queued, and their pointers come when it is back."""
    await asyncio.to_thread(rabbit_server.kill)
    submitted = await service.submit()
    assert submitted.task.state == tasks_pb2.STATE_QUEUED
    await asyncio.to_thread(rabbit_server.heal)
    assert (await service.take()).task_id == submitted.task.id
