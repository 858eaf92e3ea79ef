"""The whole process with webhooks: gRPC in, HTTP out."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from mesh.tasks.v1 import webhooks_pb2 as pb
from mesh.tasks.v1.webhooks_pb2_grpc import WebhookServiceStub
from standardwebhooks import Webhook as Verifier

from chassis.config import Discovery, Postgres, Rabbit, Rpc
from chassis.rpc.status import from_rpc_error
from deploy.local.ports import free_port
from services.tasks.app import build
from services.tasks.config import Settings, Webhooks
from tests.support.receiver import Receiver, receiving
from tests.support.rpc import open_host

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]


@pytest.fixture
async def channel(tasks_url: str, amqp_url: str) -> AsyncIterator[grpc.aio.Channel]:
    """To a process that may call this machine."""
    settings = Settings(
        rpc=Rpc(port=(port := free_port())),
        discovery=Discovery(),
        postgres=Postgres(url=tasks_url),
        rabbit=Rabbit(url=amqp_url),
        webhooks=Webhooks(allow_http=True, allowed_networks="127.0.0.0/8,::1/128", schedule_seconds="0,0.1"),
    )
    async with open_host("tasks") as host:
        await build(settings, host)
        await host.health.set_ready(True)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
            yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving(Receiver(host="localhost")) as opened:
        yield opened


async def only_delivery(hooks: Any, webhook_id: str) -> pb.Delivery:
    """The delivery of a webhook that was told once, after its receiver's answer was written down."""
    log = pb.ListDeliveriesRequest(webhook_id=webhook_id, owner_id="ann")
    async with asyncio.timeout(20):
        while True:
            (delivery,) = (await hooks.ListDeliveries(log, timeout=20)).deliveries
            if delivery.state == pb.DELIVERY_STATE_DELIVERED:
                return cast("pb.Delivery", delivery)
            await asyncio.sleep(0.02)


async def test_a_webhook_from_its_making_to_its_end(channel: grpc.aio.Channel, receiver: Receiver) -> None:
    """Made, told at once of a task that ends, shown, rotated, replayed, changed, deleted."""
    hooks, tasks = WebhookServiceStub(channel), tasks_pb2_grpc.TaskServiceStub(channel)
    made = await hooks.CreateWebhook(
        pb.CreateWebhookRequest(owner_id="ann", url=receiver.url, events=["task.*"], description="d"), timeout=5
    )
    key: dict[str, Any] = {"id": made.webhook.id, "owner_id": "ann"}
    submitted = await tasks.Submit(
        tasks_pb2.SubmitRequest(kind="automation", owner_id="ann", payload=b"{}"), timeout=20
    )
    await tasks.CancelTask(tasks_pb2.CancelTaskRequest(id=submitted.task.id, owner_id="ann"), timeout=20)
    (got,) = await receiver.until(1)
    Verifier(made.secret).verify(got.body, got.headers)
    assert got.document["data"]["task_id"] == submitted.task.id
    rotated = await hooks.RotateSecret(pb.RotateSecretRequest(**key), timeout=20)
    assert rotated.webhook.HasField("rotated_until")
    delivery = await only_delivery(hooks, made.webhook.id)
    assert (delivery.event_id, delivery.type) == (got.event_id, "task.cancelled")
    again = pb.ReplayRequest(webhook_id=made.webhook.id, owner_id="ann", delivery_id=delivery.id)
    assert (await hooks.Replay(again, timeout=20)).replayed == 1
    _, got = await receiver.until(2)
    for secret in (made.secret, rotated.secret):
        Verifier(secret).verify(got.body, got.headers)
    changed = await hooks.UpdateWebhook(pb.UpdateWebhookRequest(**key, enabled=False), timeout=20)
    assert (changed.webhook.enabled, changed.webhook.description) == (False, "d")
    shown = await hooks.GetWebhook(pb.GetWebhookRequest(**key), timeout=20)
    assert (shown.webhook.enabled, shown.webhook.HasField("last_delivered_at")) == (False, True)
    assert [one.id for one in (await hooks.ListWebhooks(pb.ListWebhooksRequest(), timeout=20)).webhooks] == [key["id"]]
    await hooks.DeleteWebhook(pb.DeleteWebhookRequest(**key), timeout=20)
    assert not (await hooks.ListWebhooks(pb.ListWebhooksRequest(owner_id="ann"), timeout=20)).webhooks


async def test_events_of_others_and_pings_are_posted_at_once(channel: grpc.aio.Channel, receiver: Receiver) -> None:
    """An event that is emitted twice comes once."""
    hooks = WebhookServiceStub(channel)
    made = await hooks.CreateWebhook(pb.CreateWebhookRequest(owner_id="ann", url=receiver.url), timeout=20)
    at = Timestamp(seconds=1_700_000_000)
    event = pb.WebhookEvent(id="evt_1", owner_id="ann", type="agent.execution.completed", at=at, data=b'{"n":1}')
    for _ in range(2):
        await hooks.Emit(pb.EmitRequest(events=[event]), timeout=20)
    (got,) = await receiver.until(1)
    assert (got.event_id, got.document["timestamp"]) == ("evt_1", "2023-11-14T22:13:20Z")
    pinged = await hooks.Ping(pb.PingRequest(id=made.webhook.id, owner_id="ann"), timeout=20)
    _, got = await receiver.until(2)
    assert (got.event_id, got.document["event"]) == (pinged.delivery.event_id, "webhook.ping")


async def test_bad_requests_are_refused_with_their_reason(channel: grpc.aio.Channel) -> None:
    """Over the wire, and nothing is stored."""
    hooks = WebhookServiceStub(channel)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"url": "https://10.0.0.1/"}, "WEBHOOK_ADDRESS"),
        ({"url": "ftp://example.com/"}, "WEBHOOK_URL"),
        ({"url": ""}, "WEBHOOK_URL"),
        ({"events": ["task.exploded"]}, "UNKNOWN_EVENT"),
        ({"secret": "s"}, "WEBHOOK_SECRET"),
        ({"owner_id": ""}, "VALIDATION_ERROR"),
        ({"description": "a\x00b"}, "VALIDATION_ERROR"),
    )
    for changes, code in refused:
        request = pb.CreateWebhookRequest(**{"owner_id": "ann", "url": "http://127.0.0.1:1/", **changes})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hooks.CreateWebhook(request, timeout=20)
        assert (changes, from_rpc_error(caught.value, "tasks").code) == (changes, code)
    wrong = pb.DeliveryState.ValueType(9)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await hooks.ListDeliveries(pb.ListDeliveriesRequest(webhook_id="hook_x", state=wrong), timeout=20)
    assert from_rpc_error(caught.value, "tasks").code == "VALIDATION_ERROR"
    assert not (await hooks.ListWebhooks(pb.ListWebhooksRequest(), timeout=20)).webhooks
