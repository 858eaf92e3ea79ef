"""Couriers, a real database and real endpoints: what is posted, what is tried again, and what becomes of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from services.tasks.model.tries import Policy, Share
from services.tasks.model.webhooks import Delivery, DeliveryState, HookWish, Page, Parcel, Settlement, Telling, Webhook
from services.tasks.peers.addresses import Guard
from tests.integration.tasks.core import Core, open_core, success
from tests.integration.tasks.couriers import couriers
from tests.support.receiver import Receiver, receiving

pytestmark = pytest.mark.postgres


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving(Receiver(host="localhost")) as opened:
        yield opened


async def make(core: Core, receiver: Receiver, **changes: Any) -> Webhook:
    return await core.webhooks.create("ann", HookWish(**{"url": receiver.url, **changes}), "")


async def tell(core: Core, *event_ids: str, owner_id: str = "ann") -> None:
    at = datetime.now(UTC)
    await core.webhooks.tell(
        [Telling(event_id=one, owner_id=owner_id, type="agent.created", at=at, data=b"{}") for one in event_ids], ""
    )


async def log_of(core: Core, webhook: Webhook) -> list[Delivery]:
    """Its deliveries, oldest first."""
    page = Page(webhook_id=webhook.webhook_id, owner_id="", limit=200, before="", state=None)
    return list(reversed(await core.webhooks.list_deliveries(page)))


async def settled(core: Core, webhook: Webhook, state: DeliveryState = DeliveryState.DELIVERED) -> list[Delivery]:
    """Its log, once all of it is in this state."""
    async with asyncio.timeout(60):
        while any(one.state is not state for one in await log_of(core, webhook)):
            await asyncio.sleep(0.05)
    return await log_of(core, webhook)


def unsigned(body: bytes) -> bytes:
    return body.partition(b',"signature"')[0]


async def test_an_event_arrives_signed_and_is_logged(core: Core, receiver: Receiver) -> None:
    """The body is the payload with its signature; the log has one try."""
    webhook = await make(core, receiver)
    session = await core.open_session()
    task_id = await core.run(session)
    await core.finish(session, success(task_id))
    async with couriers(core):
        (delivery,) = await settled(core, webhook)
    (got,) = receiver.got
    Verifier(webhook.secret).verify(got.body, got.headers)
    assert got.headers["content-type"] == "application/json"
    assert (got.event_id, got.document["data"]["task_id"]) == (f"evt_{task_id}_3", task_id)
    assert got.body.startswith(delivery.body[:-1])
    assert ([one.status for one in delivery.tries], delivery.next_at) == ([204], None)
    assert (await core.webhooks.get(webhook.webhook_id, "ann")).last_delivered_at is not None


async def test_what_failed_is_tried_again_under_its_id(core: Core, receiver: Receiver) -> None:
    """The same id and the same bytes, until a 2xx; the log tells of each try."""
    receiver.planned.extend([500, 404])
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    async with couriers(core):
        (delivery,) = await settled(core, webhook)
    assert {(got.event_id, got.body) for got in receiver.got} == {("evt_1", receiver.got[0].body)}
    assert [one.status for one in delivery.tries] == [500, 404, 204]
    assert [one.error for one in delivery.tries] == ["It answered with status 500", "It answered with status 404", ""]


async def test_a_redirect_is_a_failure_and_not_followed(core: Core, receiver: Receiver) -> None:
    """Wherever it points."""
    async with receiving() as elsewhere:
        receiver.usual, receiver.headers = 302, {"location": elsewhere.url}
        webhook = await make(core, receiver)
        await tell(core, "evt_1")
        async with couriers(core):
            (delivery,) = await settled(core, webhook, DeliveryState.FAILED)
        assert [one.status for one in delivery.tries] == [302] * 3
        assert elsewhere.got == []


async def test_gone_disables_the_webhook_at_once(core: Core, receiver: Receiver) -> None:
    """What waited for it is given up; once it is enabled again it can be replayed."""
    receiver.planned.append(410)
    webhook = await make(core, receiver)
    await tell(core, "evt_1", "evt_2", "evt_3")
    async with couriers(core, share=Share(per_webhook=1, per_owner=1)):
        log = await settled(core, webhook, DeliveryState.FAILED)
        disabled = await core.webhooks.get(webhook.webhook_id, "ann")
        assert (disabled.enabled, disabled.disabled_reason) == (False, "gone")
        assert sorted(one.tries[-1].error for one in log) == [
            "It answered with status 410",
            "The webhook was disabled",
            "The webhook was disabled",
        ]
        enabled = await core.webhooks.update(webhook.webhook_id, "ann", HookWish(enabled=True))
        assert (enabled.enabled, enabled.disabled_reason) == (True, "")
        assert await core.webhooks.replay(webhook.webhook_id, "ann", None, webhook.created_at) == 3
        await settled(core, webhook)
    tried = [got.event_id for got in receiver.got]
    assert sorted(tried) == sorted(["evt_1", "evt_2", "evt_3", tried[0]])


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(core: Core, receiver: Receiver, status: int) -> None:
    """The next try is as late as the endpoint asks."""
    receiver.usual, receiver.headers = status, {"retry-after": "600"}
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    async with couriers(core):
        await receiver.until(1)
        async with asyncio.timeout(20):
            while not (delivery := (await log_of(core, webhook))[0]).tries:
                await asyncio.sleep(0.05)
    assert delivery.state is DeliveryState.WAITING
    assert delivery.next_at is not None
    assert delivery.next_at - delivery.tries[0].at > timedelta(seconds=590)


async def test_a_webhook_that_fails_for_days_is_disabled(core: Core, receiver: Receiver) -> None:
    """Counted from the first failure since the last success; a success forgives."""
    receiver.usual = 500
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    long_ago = "UPDATE tasks.webhook SET failing_since = now() - interval '6 days'"
    async with couriers(core, failing_seconds=432_000):
        await settled(core, webhook, DeliveryState.FAILED)
        assert (await core.webhooks.get(webhook.webhook_id, "ann")).enabled
        await core.sql(long_ago)
        receiver.planned.append(200)
        await core.webhooks.replay(webhook.webhook_id, "ann", None, webhook.created_at)
        await settled(core, webhook)
        await tell(core, "evt_2")
        await receiver.until(7)
        assert (await core.webhooks.get(webhook.webhook_id, "ann")).enabled
        await core.sql(long_ago)
        await tell(core, "evt_3")
        async with asyncio.timeout(20):
            while (now := await core.webhooks.get(webhook.webhook_id, "ann")).enabled:
                await asyncio.sleep(0.05)
    assert now.disabled_reason == "failing"


async def test_a_slow_endpoint_holds_up_nobody_else(core: Core, receiver: Receiver) -> None:
    """It has its few tries at a time, and what is due later for others is posted meanwhile."""
    released = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(status=204)

    receiver.usual = hang
    slow = await make(core, receiver)
    await tell(core, *(f"evt_slow_{number}" for number in range(30)))
    async with receiving() as fast, couriers(core, most_under_way=8, share=Share(per_webhook=2, per_owner=8)):
        await receiver.until(2)
        await core.webhooks.create("bob", HookWish(url=fast.url), "")
        await tell(core, *(f"evt_{number}" for number in range(20)), owner_id="bob")
        await fast.until(20)
        assert len(receiver.got) == 2
        released.set()
        await settled(core, slow)
    assert len({got.event_id for got in receiver.got}) == 30


async def test_an_owner_of_many_slow_endpoints_holds_up_nobody_else(core: Core, receiver: Receiver) -> None:
    """They share what is one owner's, however many they are and however early they were due."""
    released = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(status=204)

    receiver.usual = hang
    slow = [await make(core, receiver) for _ in range(4)]
    await tell(core, *(f"evt_slow_{number}" for number in range(10)))
    shares = Share(per_webhook=2, per_owner=3)
    async with receiving() as fast, couriers(core, most_under_way=4, share=shares):
        await receiver.until(3)
        await core.webhooks.create("bob", HookWish(url=fast.url), "")
        await tell(core, *(f"evt_{number}" for number in range(10)), owner_id="bob")
        await fast.until(10)
        assert len(receiver.got) == 3
        released.set()
        for webhook in slow:
            await settled(core, webhook)
    assert len(receiver.got) == 40


async def test_owners_take_turns(core: Core, receiver: Receiver) -> None:
    """Whoever has less under way comes first, however much of another was due before."""
    await make(core, receiver)
    await make(core, receiver)
    await tell(core, *(f"evt_{number}" for number in range(9)))
    await core.webhooks.create("bob", HookWish(url=receiver.url), "")
    await tell(core, "evt_of_bob", owner_id="bob")
    share = Share(per_webhook=9, per_owner=9)
    _, taken = await core.store.take(2, share, {}, lease_seconds=60.0, render=lambda facts: b"{}")
    assert "evt_of_bob" in {parcel.event_id for parcel in taken}


async def test_silence_is_a_failure_after_a_time(core: Core, receiver: Receiver) -> None:
    """No answer at all, or one that never ends its head."""

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    receiver.planned.append(hang)
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    patient = Policy(schedule_seconds=(0.0, *[0.05] * 10))
    async with couriers(core, timeout_seconds=0.5, policy=patient):
        (delivery,) = await settled(core, webhook)
    first, last = delivery.tries[0], delivery.tries[-1]
    assert [(one.status, one.error) for one in (first, last)] == [(0, "It did not answer in time"), (204, "")]


async def test_an_answer_without_an_end_is_not_read(core: Core, receiver: Receiver) -> None:
    """Its status counts, and nothing of it is kept."""

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=200)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)

    receiver.planned.append(flood)
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    async with couriers(core):
        (delivery,) = await settled(core, webhook)
    assert [one.status for one in delivery.tries] == [200]


class Forgetful:
    """A store whose process dies between a try and its commit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.take = core.store.take
        self.died = asyncio.Event()

    async def settle_delivery(self, parcel: Parcel, settlement: Settlement, failing_seconds: float) -> bool:
        self.died.set()
        await asyncio.sleep(3600)
        raise AssertionError("nobody waits that long")


async def test_what_was_tried_and_not_written_down_is_posted_again(core: Core, receiver: Receiver) -> None:
    """After the lease by whoever comes, under the same id; the log says that a try was lost."""
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    dying = Forgetful(core)
    async with couriers(core, dying):  # type: ignore[arg-type]  # the part that is asked
        await dying.died.wait()
    async with couriers(core):
        await asyncio.sleep(0.3)
        assert len(receiver.got) == 1
        await core.sql("UPDATE tasks.webhook_delivery SET due_at = now()")
        (delivery,) = await settled(core, webhook)
    assert [got.event_id for got in receiver.got] == ["evt_1", "evt_1"]
    assert unsigned(receiver.got[0].body) == unsigned(receiver.got[1].body)
    assert [one.error for one in delivery.tries] == ["The process that tried was not heard of again", ""]


async def test_who_lost_a_delivery_settles_nothing(core: Core, receiver: Receiver) -> None:
    """It was taken by another after the lease; the late word of the first has no effect."""
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    _, (first,) = await core.store.take(
        1, Share(per_webhook=1, per_owner=1), {}, lease_seconds=0.0, render=lambda facts: b"{}"
    )
    _, (second,) = await core.store.take(
        1, Share(per_webhook=1, per_owner=1), {}, lease_seconds=60.0, render=lambda facts: b"{}"
    )
    assert (second.number, second.lost, second.payload) == (first.number + 1, True, first.payload)
    done = Settlement(state=DeliveryState.FAILED, failures=1, delay_seconds=0, tries=(), gone=True)
    assert not await core.store.settle_delivery(first, done, 1.0)
    (delivery,) = await log_of(core, webhook)
    assert delivery.state is DeliveryState.WAITING
    assert (await core.webhooks.get(webhook.webhook_id, "ann")).enabled


async def test_processes_share_what_is_due(core: Core, tasks_url: str, receiver: Receiver) -> None:
    """Three of them, and each event is posted once."""
    webhook = await make(core, receiver)
    await tell(core, *(f"evt_{number}" for number in range(80)))
    async with open_core(tasks_url) as other, couriers(core), couriers(other), couriers(other):
        await settled(core, webhook)
    assert sorted(got.event_id for got in receiver.got) == sorted(f"evt_{number}" for number in range(80))


async def test_a_replay_is_the_same_event_again(core: Core, receiver: Receiver) -> None:
    """One that was delivered, byte for byte; and what is under way is left alone."""
    webhook = await make(core, receiver)
    await tell(core, "evt_1", "evt_2")
    async with couriers(core):
        log = await settled(core, webhook)
        assert await core.webhooks.replay(webhook.webhook_id, "ann", None, webhook.created_at) == 0
        assert await core.webhooks.replay(webhook.webhook_id, "ann", log[0].delivery_id, None) == 1
        await receiver.until(3)
        await settled(core, webhook)
    assert sorted(got.event_id for got in receiver.got) == sorted(["evt_1", "evt_2", log[0].event_id])
    assert len({got.body for got in receiver.got if got.event_id == log[0].event_id}) == 1


async def test_a_ping_reaches_whoever_subscribes_to_nothing_of_it(core: Core, receiver: Receiver) -> None:
    """With an id of its own each time."""
    webhook = await make(core, receiver, events=("task.failed",))
    pings = [await core.webhooks.ping(webhook.webhook_id, "ann", "") for _ in range(2)]
    async with couriers(core):
        await settled(core, webhook)
    assert {got.event_id for got in receiver.got} == {ping.event_id for ping in pings}
    assert {got.document["event"] for got in receiver.got} == {"webhook.ping"}


async def test_both_secrets_sign_while_they_overlap(core: Core, receiver: Receiver) -> None:
    """Receivers with either verify; afterwards only the new one signs."""
    webhook = await make(core, receiver)
    rotated = await core.webhooks.rotate(webhook.webhook_id, "ann", "", None)
    await tell(core, "evt_1")
    async with couriers(core):
        (got,) = await receiver.until(1)
        for secret in (webhook.secret, rotated.secret):
            Verifier(secret).verify(got.body, got.headers)
        await core.sql("UPDATE tasks.webhook SET old_until = now()")
        await tell(core, "evt_2")
        _, got = await receiver.until(2)
    Verifier(rotated.secret).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(webhook.secret).verify(got.body, got.headers)


async def test_an_address_inside_is_not_called_whatever_was_stored(core: Core, receiver: Receiver) -> None:
    """As when a name has come to lead inside: the log says so, and names no address."""
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    async with couriers(core, guard=Guard([], allow_http=True)):
        (delivery,) = await settled(core, webhook, DeliveryState.FAILED)
    assert {(one.status, one.error) for one in delivery.tries} == {(0, "It leads to an address that may not be called")}
    assert receiver.got == []


async def test_a_drain_leaves_to_others_what_is_not_over(
    core: Core, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no more, gives back what hangs, and the next process posts it at once."""
    monkeypatch.setattr("services.tasks.operations.deliveries._DRAIN_SECONDS", 0.2)

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    receiver.planned.append(hang)
    webhook = await make(core, receiver)
    await tell(core, "evt_1")
    async with couriers(core) as leaving:
        await receiver.until(1)
        await leaving.drain()
        await tell(core, "evt_2")
        await asyncio.sleep(0.2)
        assert len(receiver.got) == 1
    async with couriers(core):
        await settled(core, webhook)
    assert sorted(got.event_id for got in receiver.got) == ["evt_1", "evt_1", "evt_2"]


async def test_a_crowd_for_one_webhook_is_worked_off_in_order(core: Core, receiver: Receiver) -> None:
    """One at a time: as they are due."""
    webhook = await make(core, receiver)
    for number in range(5):
        await tell(core, f"evt_{number}")
    async with couriers(core, share=Share(per_webhook=1, per_owner=1), policy=Policy()):
        await settled(core, webhook)
    assert [got.event_id for got in receiver.got] == [f"evt_{number}" for number in range(5)]
