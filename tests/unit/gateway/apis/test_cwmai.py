"""The CWMAI API's tasks: its document's examples and errors."""

import pytest

from chassis.errors import Exhausted
from tests.unit.gateway.apis.world import World

TASK = {
    "title": "Implement new feature",
    "description": "Detailed task description",
    "priority": "medium",
    "task_type": "feature",
    "estimated_hours": 4.0,
}


async def test_the_example_of_the_document(world: World):
    """Request and answer as printed, but for the id and the time."""
    answer = await world.ask("POST", "/tasks", TASK)
    assert answer.status == 200
    assert answer.json == {
        "id": "task_00000000000000000000000000",
        "title": "Implement new feature",
        "description": "Detailed task description",
        "priority": "medium",
        "type": "feature",
        "estimated_hours": 4.0,
        "status": "pending",
        "created_at": "2026-01-01T00:00:00Z",
    }


async def test_the_list_shows_what_was_created(world: World):
    """Newest first, a part at a time; tasks of the other APIs have their kind for a title."""
    await world.ask("POST", "/tasks", TASK)
    await world.ask("POST", "/task", {"type": "automation", "data": {}})
    page = (await world.ask("GET", "/tasks?limit=1&offset=1")).json
    assert {name: page[name] for name in ("total", "limit", "offset")} == {"total": 2, "limit": 1, "offset": 1}
    assert (page["tasks"][0]["title"], page["tasks"][0]["estimated_hours"]) == ("Implement new feature", 4.0)
    newest = (await world.ask("GET", "/tasks")).json["tasks"][0]
    assert (newest["title"], newest["type"], newest["priority"]) == ("automation", "automation", "medium")


async def test_everybody_sees_their_own(world: World):
    """An administrator sees all."""
    await world.ask("POST", "/tasks", TASK)
    assert (await world.ask("GET", "/tasks", who="other")).json["total"] == 0
    assert (await world.ask("GET", "/tasks", who="admin")).json["total"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": ""},
        {"title": None},
        {"priority": "critical"},
        {"task_type": "party"},
        {"estimated_hours": -1},
        {"estimated_hours": "four"},
        {"description": "x" * 3001},
    ],
)
async def test_bad_tasks_are_refused(world: World, wrong):
    """400 with a sentence that names the field."""
    answer = await world.ask("POST", "/tasks", TASK | wrong)
    assert answer.status == 400
    assert set(answer.json) == {"error", "detail", "code", "timestamp", "request_id"}
    assert next(iter(wrong)) in answer.json["detail"]


async def test_a_limit_reads_as_the_document_writes_it(world: World):
    """With the seconds to wait, in the body too."""
    world.tasks.failure = Exhausted("Rate limit exceeded", retry_after_seconds=60)
    answer = await world.ask("POST", "/tasks", TASK)
    assert (answer.status, answer.headers["retry-after"]) == (429, "60")
    body = answer.json
    assert (body["error"], body["detail"], body["retry_after"]) == ("Rate limit exceeded", "Too many requests", 60)


async def test_a_key_makes_one_task(world: World):
    """And another body under it is refused."""
    headers = {"Idempotency-Key": "k"}
    one = (await world.ask("POST", "/tasks", TASK, headers=headers)).json
    two = (await world.ask("POST", "/tasks", TASK, headers=headers)).json
    assert one == two
    assert (await world.ask("POST", "/tasks", TASK | {"title": "Other"}, headers=headers)).status == 422
