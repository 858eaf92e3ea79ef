"""Schedules over the native API."""

import pytest
from mesh.tasks.v1 import tasks_pb2

from tests.unit.gateway.apis.world import World

SCHEDULES = "/api/v1/tasks/schedules"
EXAMPLE = {
    "name": "nightly report",
    "cron": "0 3 * * *",
    "timezone": "Europe/Berlin",
    "misfire": "skip",
    "task": {"task_type": "automation", "payload": {"action": "process_data"}, "priority": "high"},
}


async def created(world: World, who: str = "user") -> str:
    answer = await world.ask("POST", SCHEDULES, EXAMPLE, who=who)
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


async def test_a_schedule_is_shown_as_it_was_made(world: World):
    """With what it submits."""
    view = (await world.ask("GET", f"{SCHEDULES}/{await created(world)}")).json
    assert {name: view[name] for name in ("name", "cron", "timezone", "misfire", "paused")} == {
        "name": "nightly report",
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "misfire": "skip",
        "paused": False,
    }
    assert (view["task"]["task_type"], view["task"]["priority"]) == ("automation", "high")
    assert view["task"]["payload"] == {"action": "process_data"}


async def test_a_change_leaves_the_rest(world: World):
    """Fields that are absent or null stay."""
    path = f"{SCHEDULES}/{await created(world)}"
    changed = (await world.ask("PATCH", path, {"cron": "*/5 * * * *", "misfire": "all", "name": None})).json
    assert (changed["cron"], changed["misfire"], changed["name"]) == ("*/5 * * * *", "all", "nightly report")
    assert changed["timezone"] == "Europe/Berlin"


async def test_a_schedule_is_paused_and_resumed(world: World):
    """By a word each."""
    path = f"{SCHEDULES}/{await created(world)}"
    assert (await world.ask("POST", f"{path}/pause")).json["paused"] is True
    assert (await world.ask("POST", f"{path}/resume")).json["paused"] is False


async def test_a_deleted_schedule_is_gone(world: World):
    """204, then 404."""
    path = f"{SCHEDULES}/{await created(world)}"
    assert (await world.ask("DELETE", path)).status == 204
    gone = await world.ask("GET", path)
    assert (gone.status, gone.json["error"]["code"]) == (404, "SCHEDULE_NOT_FOUND")


async def test_lists_show_ones_own(world: World):
    """An administrator's shows all."""
    await created(world)
    await created(world, "other")
    assert (await world.ask("GET", SCHEDULES)).json["total"] == 1
    assert (await world.ask("GET", SCHEDULES, who="admin")).json["total"] == 2


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/pause")])
async def test_the_schedules_of_others_do_not_exist(world: World, method, suffix):
    """404, as for an id that nobody has."""
    path = f"{SCHEDULES}/{await created(world)}{suffix}"
    body = b"{}" if method == "PATCH" else b""
    assert (await world.ask(method, path, body, who="other")).status == 404


@pytest.mark.parametrize(
    "wrong",
    [{"cron": "nonsense"}, {"cron": ""}, {"misfire": "twice"}, {"task": {}}, {"task": {"task_type": "a b"}}],
)
async def test_nonsense_is_refused(world: World, wrong):
    """And nothing is stored."""
    assert (await world.ask("POST", SCHEDULES, EXAMPLE | wrong)).status in {400, 422}
    assert world.tasks.schedules == {}


async def test_an_unsaid_misfire_means_once(world: World):
    """As the contract has it."""
    schedule_id = await created(world)
    world.tasks.schedules[schedule_id].misfire = tasks_pb2.MISFIRE_UNSPECIFIED
    assert (await world.ask("GET", f"{SCHEDULES}/{schedule_id}")).json["misfire"] == "once"
