"""Webhooks over a real database: what the ends of tasks write down, and what owners do with their webhooks."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from chassis.errors import Conflict, Exhausted, Invalid, NotFound, Unavailable
from services.tasks.model.signing import make_secret
from services.tasks.model.states import Due
from services.tasks.model.webhooks import DeliveryState, HookWish, Page, Telling, Webhook
from services.tasks.store.outgoing import Transaction
from tests.integration.tasks.core import Core, failure, open_webhooks, success

pytestmark = pytest.mark.postgres

AT = datetime(2026, 1, 1, tzinfo=UTC)


async def make(core: Core, owner_id: str = "ann", **changes: Any) -> Webhook:
    return await core.webhooks.create(owner_id, HookWish(**{"url": "https://example.com/hook", **changes}), "")


async def told(core: Core, webhook: Webhook) -> list[dict[str, Any]]:
    """The payloads of all that the webhook was told, oldest first."""
    page = Page(webhook_id=webhook.webhook_id, owner_id="", limit=0, before="", state=None)
    return [orjson.loads(one.body) for one in reversed(await core.webhooks.list_deliveries(page))]


def telling(event_id: str = "evt_1", **changes: Any) -> Telling:
    values = {"owner_id": "ann", "type": "agent.execution.completed", "at": AT, "data": b'{"execution_id":"e"}'}
    return Telling(event_id=event_id, **{**values, **changes})


async def end_by_every_road(core: Core) -> dict[str, str]:
    """Ends a task in each way there is; answers with the ids by what is told of them."""
    session = await core.open_session()
    ids = {
        name: await core.run(session, **changes)
        for name, changes in {
            "completed": {},
            "failed": {},
            "dead": {"max_attempts": 1},
            "cancelled": {},
        }.items()
    }
    ids["expired"] = await core.submit_id(deadline_at=datetime.now(UTC) + timedelta(seconds=0.3))
    await core.queries.cancel(ids["cancelled"], "ann")
    await core.finish(
        session,
        success(ids["completed"]),
        failure(ids["failed"], retryable=False),
        failure(ids["dead"]),
        failure(ids["cancelled"]),
    )
    await core.sql("UPDATE tasks.schedule SET due_at = now() WHERE task_id = $1", ids["expired"])
    await core.upkeep.release()
    return ids


async def test_every_end_of_a_task_is_told(core: Core) -> None:
    """Completed, failed, dead, cancelled and expired, each once, with its own data."""
    webhook = await make(core)
    ids = await end_by_every_road(core)
    payloads = {one["event"]: one["data"] for one in await told(core, webhook)}
    assert {event: data["task_id"] for event, data in payloads.items()} == {f"task.{n}": i for n, i in ids.items()}
    assert all(event == f"task.{data['status']}" for event, data in payloads.items())
    assert payloads["task.completed"]["result"] == {"ok": True}
    assert payloads["task.completed"]["error"] is None
    assert payloads["task.dead"]["error"] == {"code": "HANDLER_ERROR", "message": "it broke"}
    assert payloads["task.expired"]["error"]["code"] == "DEADLINE_EXCEEDED"
    assert {data["attempt"] for data in payloads.values()} == {0, 1}
    assert Due.DELIVERIES in core.due


async def test_an_end_that_was_rolled_back_is_not_told(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement that ends a task and tells of it is undone as one."""
    webhook = await make(core)
    task_id = await core.submit_id()

    async def announce(self: object, notices: object) -> None:
        raise Unavailable

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "announce", announce)
        with pytest.raises(Unavailable):
            await core.queries.cancel(task_id, "ann")
    assert await told(core, webhook) == []
    await core.queries.cancel(task_id, "ann")
    assert [one["event"] for one in await told(core, webhook)] == ["task.cancelled"]


async def test_only_who_wants_it_is_told(core: Core) -> None:
    """By owner, by type and beginnings of types, and not while disabled or deleted."""
    wanting = [await make(core, events=events) for events in (("task.*",), ("task.cancelled", "agent.created"), ())]
    others = [
        await make(core, owner_id="bob"),
        await make(core, events=("task.completed", "agent.*")),
        await make(core, enabled=False),
        deleted := await make(core),
    ]
    await core.webhooks.delete(deleted.webhook_id, "ann")
    await core.queries.cancel(await core.submit_id(), "ann")
    assert [len(await told(core, webhook)) for webhook in wanting] == [1, 1, 1]
    rows = await core.sql("SELECT webhook_id FROM tasks.webhook_delivery")
    assert not {row["webhook_id"] for row in rows} & {webhook.webhook_id for webhook in others}


async def test_a_task_that_is_requeued_is_told_of_at_each_end(core: Core) -> None:
    """Two ends are two events, with ids of their own and without dots."""
    webhook = await make(core)
    task_id = await core.submit_id()
    for _ in range(2):
        await core.queries.cancel(task_id, "ann")
        await core.queries.requeue(task_id, "ann", 1)
    ids = [
        row["event_id"] for row in await core.sql("SELECT event_id FROM tasks.webhook_delivery ORDER BY delivery_id")
    ]
    assert ids == [f"evt_{task_id}_2", f"evt_{task_id}_4"]
    assert len(await told(core, webhook)) == 2


async def test_what_is_told_outlives_history(core: Core) -> None:
    """The day of the task is dropped before anybody posted its end."""
    webhook = await make(core)
    await core.queries.cancel(await core.submit_id(), "ann")
    before = await told(core, webhook)
    await core.sql("DELETE FROM tasks.task")
    await core.sql("DELETE FROM tasks.task_result")
    assert await told(core, webhook) == before


async def test_a_long_result_is_not_kept_twice(core: Core) -> None:
    """It is left out, and the data say where it is."""
    webhook = await make(core)
    session = await core.open_session()
    task_id = await core.run(session)
    await core.finish(session, success(task_id, result=b'"' + b"x" * 30_000 + b'"'))
    (payload,) = await told(core, webhook)
    assert (payload["data"]["result"], payload["data"]["result_omitted"]) == (None, True)
    assert payload["data"]["result_path"] == f"/api/v1/tasks/{task_id}/result"
    assert (await core.sql("SELECT octet_length(result) FROM tasks.webhook_delivery"))[0][0] is None


async def test_an_event_of_another_service_is_told_once(core: Core) -> None:
    """However often it is emitted, and to each webhook of its owner that wants it."""
    one, two = await make(core, events=("agent.*",)), await make(core)
    bobs, uninterested = await make(core, owner_id="bob"), await make(core, events=("task.*",))
    await asyncio.gather(*(core.webhooks.tell([telling(), telling("evt_2")], "") for _ in range(4)))
    for webhook in (one, two):
        payloads = await told(core, webhook)
        assert len(payloads) == 2
        assert payloads[0] == {
            "event": "agent.execution.completed",
            "timestamp": "2026-01-01T00:00:00Z",
            "data": {"execution_id": "e"},
        }
    assert await told(core, bobs) + await told(core, uninterested) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"event_id": ""}, "VALIDATION_ERROR"),
        ({"event_id": "a.b"}, "VALIDATION_ERROR"),
        ({"event_id": "x" * 101}, "VALIDATION_ERROR"),
        ({"owner_id": ""}, "VALIDATION_ERROR"),
        ({"type": "agent.exploded"}, "UNKNOWN_EVENT"),
        ({"data": b"[]"}, "VALIDATION_ERROR"),
        ({"data": b"{"}, "VALIDATION_ERROR"),
        ({"data": b'{"n":NaN}'}, "VALIDATION_ERROR"),
        ({"data": b'{"s":"\\u0000"}'}, "VALIDATION_ERROR"),
        ({"data": b'{"s":"' + b"x" * 16_384 + b'"}'}, "PAYLOAD_TOO_LARGE"),
    ],
)
async def test_an_event_that_cannot_be_told_is_refused(core: Core, changes: dict[str, Any], code: str) -> None:
    """With its number, and nothing of the call is kept."""
    webhook = await make(core)
    with pytest.raises(Invalid) as caught:
        await core.webhooks.tell([telling(), telling(**changes)], "")
    assert (caught.value.code, caught.value.details["index"]) == (code, "1")
    assert await told(core, webhook) == []


async def test_a_webhook_is_made_shown_and_changed(core: Core) -> None:
    """What is not given stays; another owner sees nothing; an empty owner sees all."""
    webhook = await make(core, events=("task.failed", "task.failed"), description="d")
    assert (webhook.events, webhook.enabled) == (("task.failed",), True)
    assert await core.webhooks.get(webhook.webhook_id, "") == webhook
    changed = await core.webhooks.update(webhook.webhook_id, "ann", HookWish(url="https://example.com/2"))
    assert changed == replace(webhook, url="https://example.com/2")
    assert await core.webhooks.list_webhooks("ann") == [changed]
    assert await core.webhooks.list_webhooks("bob") == []
    newer = await make(core, owner_id="bob")
    assert await core.webhooks.list_webhooks("") == [newer, changed]


async def test_another_owners_webhook_does_not_exist(core: Core) -> None:
    """For everything that can be asked; the same as for one that never was."""
    mine = (await make(core)).webhook_id
    page = Page(webhook_id=mine, owner_id="bob", limit=0, before="", state=None)
    for webhook_id in (mine, "hook_01J0000000000000000000000A", "nonsense", ""):
        for call in (
            core.webhooks.get(webhook_id, "bob"),
            core.webhooks.update(webhook_id, "bob", HookWish(enabled=False)),
            core.webhooks.delete(webhook_id, "bob"),
            core.webhooks.rotate(webhook_id, "bob", "", None),
            core.webhooks.ping(webhook_id, "bob", ""),
            core.webhooks.replay(webhook_id, "bob", None, AT),
            core.webhooks.list_deliveries(replace(page, webhook_id=webhook_id)),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.code == "WEBHOOK_NOT_FOUND"
    assert (await core.webhooks.get(mine, "ann")).enabled


async def test_an_owner_has_so_many_webhooks_and_no_more(core: Core) -> None:
    """Exactly, also when they are made at once; one that is deleted makes room."""
    webhooks = open_webhooks(core.store, core.post, most_per_owner=3)
    wish = HookWish(url="https://example.com")
    made = await asyncio.gather(*(webhooks.create("ann", wish, "") for _ in range(6)), return_exceptions=True)
    refused = [one for one in made if isinstance(one, Exhausted)]
    kept = [one for one in made if isinstance(one, Webhook)]
    assert (len(kept), {one.code for one in refused}) == (3, {"TOO_MANY_WEBHOOKS"})
    await webhooks.delete(kept[0].webhook_id, "ann")
    await webhooks.create("ann", wish, "")


@pytest.mark.parametrize(
    ("wish", "secret", "code"),
    [
        (HookWish(url="https://e.com", events=("task.exploded",)), "", "UNKNOWN_EVENT"),
        (HookWish(url="https://e.com", events=("",)), "", "UNKNOWN_EVENT"),
        (HookWish(url="https://e.com", description="x" * 501), "", "VALIDATION_ERROR"),
        (HookWish(url="https://e.com"), "whsec_short", "WEBHOOK_SECRET"),
    ],
)
async def test_a_webhook_that_cannot_be_is_refused(core: Core, wish: HookWish, secret: str, code: str) -> None:
    """And nothing is stored."""
    with pytest.raises(Invalid) as caught:
        await core.webhooks.create("ann", wish, secret)
    assert caught.value.code == code
    assert await core.webhooks.list_webhooks("") == []


async def test_a_secret_is_rotated_with_an_overlap(core: Core) -> None:
    """The old one is kept for so long; the same one again is the repetition of a call."""
    webhook = await make(core)
    new = make_secret()
    for _ in range(2):
        rotated = await core.webhooks.rotate(webhook.webhook_id, "ann", new, None)
        assert (rotated.secret, rotated.old_secret) == (new, webhook.secret)
        assert rotated.old_until is not None
        assert timedelta(hours=23) < rotated.old_until - datetime.now(UTC) < timedelta(hours=25)
    again = await core.webhooks.rotate(webhook.webhook_id, "ann", "", 0)
    assert (again.secret not in {new, webhook.secret}, again.old_secret) == (True, new)
    with pytest.raises(Invalid):
        await core.webhooks.rotate(webhook.webhook_id, "ann", "", 604_801)


async def test_the_log_is_read_in_pages(core: Core) -> None:
    """Newest first, from where the last page ended, by state."""
    webhook = await make(core)
    await core.webhooks.tell([telling(f"evt_{number}") for number in range(5)], "")
    page = Page(webhook_id=webhook.webhook_id, owner_id="ann", limit=2, before="", state=None)
    seen: list[str] = []
    while found := await core.webhooks.list_deliveries(page):
        seen += [one.delivery_id for one in found]
        page = replace(page, before=seen[-1])
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 5
    failed = replace(page, before="", state=DeliveryState.FAILED)
    assert await core.webhooks.list_deliveries(failed) == []
    for wrong in (replace(page, before="dlv_x"), replace(page, limit=201)):
        with pytest.raises(Invalid):
            await core.webhooks.list_deliveries(wrong)


async def test_a_disabled_webhook_gives_up_what_waited(core: Core) -> None:
    """Said in the log; it is neither pinged nor replayed before it is enabled again."""
    webhook = await make(core)
    await core.webhooks.tell([telling()], "")
    await core.webhooks.update(webhook.webhook_id, "ann", HookWish(enabled=False))
    page = Page(webhook_id=webhook.webhook_id, owner_id="ann", limit=0, before="", state=DeliveryState.FAILED)
    (given_up,) = await core.webhooks.list_deliveries(page)
    assert [one.error for one in given_up.tries] == ["The webhook was disabled"]
    for call in (
        core.webhooks.ping(webhook.webhook_id, "ann", ""),
        core.webhooks.replay(webhook.webhook_id, "ann", given_up.delivery_id, None),
    ):
        with pytest.raises(Conflict) as caught:
            await call
        assert caught.value.code == "WEBHOOK_DISABLED"
    await core.webhooks.update(webhook.webhook_id, "ann", HookWish(enabled=True))
    assert await core.webhooks.replay(webhook.webhook_id, "ann", given_up.delivery_id, None) == 1


async def test_pruning_forgets_what_ended_long_ago_and_what_was_deleted(core: Core) -> None:
    """What waits is kept, however old; of too many that wait the oldest are given up, with a word."""
    webhook, deleted = await make(core), await make(core)
    await core.webhooks.tell([telling(f"evt_{number}") for number in range(6)], "")
    await core.webhooks.delete(deleted.webhook_id, "ann")
    await core.sql("UPDATE tasks.webhook SET deleted_at = now() - interval '1 hour' WHERE deleted_at IS NOT NULL")
    ahead = datetime.now(UTC) + timedelta(days=1)
    assert await core.store.count_waiting() == 12
    await core.store.prune_deliveries(datetime.now(UTC) - timedelta(days=1), 4, 1000)
    page = Page(webhook_id=webhook.webhook_id, owner_id="", limit=0, before="", state=None)
    log = list(reversed(await core.webhooks.list_deliveries(page)))
    assert [one.state for one in log] == [DeliveryState.FAILED] * 2 + [DeliveryState.WAITING] * 4
    assert [one.error for one in log[0].tries] == ["More than 4 deliveries waited; the oldest were given up"]
    await core.store.prune_deliveries(ahead, 4, 1000)
    assert [one.delivery_id for one in reversed(await core.webhooks.list_deliveries(page))] == [
        one.delivery_id for one in log[2:]
    ]
    assert (await core.sql("SELECT count(*) FROM tasks.webhook"))[0][0] == 1
