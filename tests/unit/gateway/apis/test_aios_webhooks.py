"""Webhooks over the AI OS API."""

from typing import Any

import pytest
from mesh.tasks.v1 import webhooks_pb2

from chassis.errors import Exhausted, Invalid, MeshError
from tests.unit.gateway.apis.webhook_fakes import DELIVERY
from tests.unit.gateway.apis.world import ADMIN, USER, World

WEBHOOKS = "/api/webhooks"
EXAMPLE = {"url": "https://example.com/hook", "events": ["task.*"], "description": "Nightly"}
SECRET = "whsec_" + "A" * 32


async def created(world: World, who: str = "user", **given: Any) -> str:
    answer = await world.ask("POST", WEBHOOKS, EXAMPLE | given, who=who)
    assert answer.status == 201, answer.body
    return f"{WEBHOOKS}/{answer.json['id']}"


async def test_a_webhook_shows_its_secret_once(world: World):
    """When it is made, and never again."""
    made = (await world.ask("POST", WEBHOOKS, EXAMPLE)).json
    assert {name: made[name] for name in EXAMPLE} == EXAMPLE
    assert (made["secret"][:6], made["enabled"], made["disabled_reason"]) == ("whsec_", True, None)
    assert made["owner_id"] == USER.user_id
    seen = (await world.ask("GET", f"{WEBHOOKS}/{made['id']}")).json
    assert seen == {name: value for name, value in made.items() if name != "secret"}
    assert (await world.ask("GET", WEBHOOKS)).json == [seen]


async def test_a_key_is_passed_on(world: World):
    """The tasks service makes one webhook of it; what is no key is refused here."""
    await world.ask("POST", WEBHOOKS, EXAMPLE, headers={"Idempotency-Key": '"a b"'})
    assert world.webhooks.requests[-1].idempotency_key == "a b"
    refused = await world.ask("POST", WEBHOOKS, EXAMPLE, headers={"Idempotency-Key": "a b"})
    assert (refused.status, len(world.webhooks.requests)) == (400, 1)


async def test_a_change_leaves_the_rest(world: World):
    """Fields that are absent or null stay; a webhook can be switched off."""
    changed = await world.ask("PATCH", await created(world), {"enabled": False, "description": "", "url": None})
    assert (changed.json["enabled"], changed.json["description"], changed.json["url"]) == (False, "", EXAMPLE["url"])
    assert changed.json["events"] == EXAMPLE["events"]


async def test_a_deleted_webhook_is_gone(world: World):
    """204, then 404."""
    path = await created(world)
    assert (await world.ask("DELETE", path)).status == 204
    gone = await world.ask("GET", path)
    assert (gone.status, gone.json["code"], gone.json["detail"]) == (404, "WEBHOOK_NOT_FOUND", "Webhook not found")


async def test_a_new_secret_is_shown_once(world: World):
    """With or without a body."""
    path = await created(world)
    made = await world.ask("POST", f"{path}/secret")
    assert made.json["secret"].startswith("whsec_")
    assert made.json["rotated_until"]
    given = await world.ask("POST", f"{path}/secret", {"secret": SECRET, "overlap_seconds": 0})
    assert given.json["secret"] == SECRET
    asked = world.webhooks.requests[-1]
    assert (asked.HasField("overlap_seconds"), asked.overlap_seconds) == (True, 0)
    assert not world.webhooks.requests[-2].HasField("overlap_seconds")


async def test_deliveries_tell_what_became_of_them(world: World):
    """What was sent, and how each try went."""
    (delivery,) = (await world.ask("GET", f"{await created(world)}/deliveries")).json
    assert (delivery["id"], delivery["event_id"], delivery["event"]) == (DELIVERY, "evt_1", "task.completed")
    assert (delivery["state"], delivery["next_at"]) == ("failed", None)
    assert delivery["payload"] == {"event": "task.completed", "data": {}}
    assert [(one["status"], one["error"]) for one in delivery["tries"]] == [
        (None, "No answer in time"),
        (500, "Answered with 500"),
    ]


async def test_deliveries_are_paged_and_chosen_by_state(world: World):
    """By the last id of the page before."""
    path = f"{await created(world)}/deliveries"
    assert (await world.ask("GET", f"{path}?state=delivered")).json == []
    assert (await world.ask("GET", f"{path}?before={DELIVERY}&limit=200")).json == []
    asked = world.webhooks.requests[-1]
    assert (asked.limit, asked.before, asked.state) == (200, DELIVERY, 0)
    assert (await world.ask("GET", f"{path}?limit=201")).status == 400
    assert (await world.ask("GET", f"{path}?state=lost")).status == 400
    assert (await world.ask("GET", f"{path}?before=x")).status == 404


async def test_deliveries_are_made_again(world: World):
    """One by its id, or those that failed since a time."""
    path = await created(world)
    assert (await world.ask("POST", f"{path}/deliveries/{DELIVERY}/replay")).json == {"replayed": 1}
    assert world.webhooks.requests[-1].delivery_id == DELIVERY
    since = {"failed_since": "2026-01-01T00:00:00Z"}
    assert (await world.ask("POST", f"{path}/replay", since)).json == {"replayed": 1}
    assert world.webhooks.requests[-1].failed_since.ToJsonString() == "2026-01-01T00:00:00Z"
    assert (await world.ask("POST", f"{path}/replay", {})).status == 400
    await world.ask("PATCH", path, {"enabled": False})
    refused = await world.ask("POST", f"{path}/replay", since)
    assert (refused.status, refused.json["code"]) == (409, "WEBHOOK_DISABLED")


async def test_a_webhook_is_tried_out(world: World):
    """By a ping that is delivered like everything else."""
    answer = await world.ask("POST", f"{await created(world)}/test")
    assert (answer.status, answer.json["event"]) == (202, "webhook.ping")


async def test_webhooks_are_their_owners_and_the_administrators(world: World):
    """For others there is no such webhook, whatever they ask."""
    path = await created(world)
    asked: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("PATCH", path, {"enabled": False}),
        ("DELETE", path, None),
        ("GET", f"{path}/deliveries", None),
        ("POST", f"{path}/replay", {"failed_since": "2026-01-01T00:00:00Z"}),
        ("POST", f"{path}/deliveries/{DELIVERY}/replay", None),
        ("POST", f"{path}/secret", None),
        ("POST", f"{path}/test", None),
    ]
    for method, where, body in asked:
        assert (await world.ask(method, where, body, who="other")).status == 404, (method, where)
    assert (await world.ask("GET", WEBHOOKS, who="other")).json == []
    assert len((await world.ask("GET", WEBHOOKS, who="admin")).json) == 1
    assert (await world.ask("GET", path, who="admin")).status == 200
    await created(world, "admin")
    assert world.webhooks.requests[-1].owner_id == ADMIN.user_id


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Invalid("Only https", code="WEBHOOK_URL", details={"field": "url"}), 400, "Only https"),
        (Invalid("A private address", code="WEBHOOK_ADDRESS", details={"field": "url"}), 400, "A private address"),
        (Invalid("No secret", code="WEBHOOK_SECRET", details={"field": "secret"}), 400, "No secret"),
        (Invalid("Unknown event", code="UNKNOWN_EVENT", details={"known": "task.completed"}), 400, "task.completed"),
        (Exhausted("At most 100 webhooks", code="TOO_MANY_WEBHOOKS"), 409, "At most 100 webhooks"),
        (Exhausted("Slow down", code="QUEUE_FULL"), 429, "Slow down"),
    ],
)
async def test_refusals_say_what_is_wrong(world: World, error: MeshError, status: int, words: str):
    """In words and by a stable code, on creation and on a change."""
    path = await created(world)
    world.webhooks.failure = error
    for method, where in (("POST", WEBHOOKS), ("PATCH", path)):
        answer = await world.ask(method, where, EXAMPLE)
        assert (answer.status, answer.json["code"]) == (status, error.code)
        assert words in answer.body.decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": ""},
        {"url": None},
        {"url": "https://example.com/" + "x" * 2000},
        {"events": ["Task.Completed"]},
        {"events": ["task.*.x"]},
        {"events": ["task.completed"] * 51},
        {"description": "x" * 501},
        {"secret": "hello"},
    ],
)
async def test_bad_fields_are_refused_here(world: World, wrong: dict[str, Any]):
    """By their names, and nobody else is asked."""
    answer = await world.ask("POST", WEBHOOKS, EXAMPLE | wrong)
    assert (answer.status, answer.json["type"]) == (400, "validation_error")
    assert answer.json["errors"][0]["field"].partition(".")[0] == next(iter(wrong))
    assert world.webhooks.requests == []


@pytest.mark.parametrize("path", ["x", "hook_1", "hook_" + "i" * 26])
async def test_what_is_no_id_is_nobodys(world: World, path: str):
    """Without asking."""
    assert (await world.ask("GET", f"{WEBHOOKS}/{path}")).status == 404


async def test_states_of_deliveries_have_names():
    """Each of the contract's but the unspecified one."""
    names = {name.removeprefix("DELIVERY_STATE_").lower() for name in webhooks_pb2.DeliveryState.keys()}  # noqa: SIM118 - the enum is no dict
    assert names - {"unspecified"} == {"waiting", "delivered", "failed"}
