"""Tasks over the native API."""

import pytest
from mesh.tasks.v1 import tasks_pb2

from tests.unit.gateway.apis.task_fakes import KINDS
from tests.unit.gateway.apis.world import World

TASKS = "/api/v1/tasks"
EXAMPLE = {"task_type": "automation", "payload": {"action": "process_data"}, "priority": 1}


async def submitted(world: World, who: str = "user") -> str:
    return str((await world.ask("POST", TASKS, EXAMPLE, who=who)).json["task_id"])


async def test_the_example_of_the_document(world: World):
    """Request and answer as printed."""
    answer = await world.ask("POST", TASKS, EXAMPLE)
    assert answer.status == 201
    assert answer.json == {
        "task_id": "task_00000000000000000000000000",
        "status": "queued",
        "estimated_completion": "2026-01-01T00:05:00Z",
        "queue_position": 1,
        "duplicate": False,
    }


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (1, "low"),
        (3, "low"),
        (4, "normal"),
        (6, "normal"),
        (7, "high"),
        (9, "high"),
        (10, "critical"),
        ("high", "high"),
    ],
)
async def test_priorities_are_words_or_numbers(world: World, given, kept):
    """10 is the most urgent, as on the broker beneath."""
    await world.ask("POST", TASKS, EXAMPLE | {"priority": given})
    assert (await world.ask("GET", TASKS)).json["items"][0]["priority"] == kept


async def test_a_task_can_be_looked_at(world: World):
    """With what it was asked to do."""
    task_id = await submitted(world)
    view = (await world.ask("GET", f"{TASKS}/{task_id}")).json
    assert (view["task_id"], view["task_type"], view["status"]) == (task_id, "automation", "queued")
    assert view["payload"] == {"action": "process_data"}
    assert (view["started_at"], view["error"]) == (None, None)


async def test_a_result_is_null_until_there_is_one(world: World):
    """So that clients may poll it."""
    task_id = await submitted(world)
    assert (await world.ask("GET", f"{TASKS}/{task_id}/result")).json["result"] is None
    task = world.tasks.tasks[task_id]
    task.state, task.result = tasks_pb2.STATE_SUCCEEDED, b'{"sentiment":"positive"}'
    ended = (await world.ask("GET", f"{TASKS}/{task_id}/result")).json
    assert (ended["status"], ended["result"], ended["error"]) == ("completed", {"sentiment": "positive"}, None)


async def test_a_failure_has_a_code_and_a_sentence(world: World):
    """In the result as in the view."""
    task_id = await submitted(world)
    task = world.tasks.tasks[task_id]
    task.state = tasks_pb2.STATE_FAILED
    task.error.code, task.error.message = "TIMEOUT", "It took too long"
    expected = {"code": "TIMEOUT", "message": "It took too long"}
    assert (await world.ask("GET", f"{TASKS}/{task_id}/result")).json["error"] == expected
    assert (await world.ask("GET", f"{TASKS}/{task_id}")).json["error"] == expected


async def test_lists_have_pages(world: World):
    """The pagination schema of the document."""
    for _ in range(3):
        await submitted(world)
    page = (await world.ask("GET", f"{TASKS}?page=2&per_page=1")).json
    assert {name: page[name] for name in ("total", "page", "per_page", "has_next", "has_prev")} == {
        "total": 3,
        "page": 2,
        "per_page": 1,
        "has_next": True,
        "has_prev": True,
    }
    assert len(page["items"]) == 1


async def test_lists_are_filtered(world: World):
    """By state and by kind."""
    await submitted(world)
    assert (await world.ask("GET", f"{TASKS}?status=queued&task_type=automation")).json["total"] == 1
    assert (await world.ask("GET", f"{TASKS}?status=running")).json["total"] == 0


@pytest.mark.parametrize("query", ["page=0", "per_page=101", "status=lost", "page=x", "task_type=%00", "since=-1"])
async def test_bad_queries_are_refused(world: World, query):
    """Before anybody is asked."""
    path = f"{TASKS}/{await submitted(world)}/events" if query.startswith("since") else TASKS
    assert (await world.ask("GET", f"{path}?{query}")).status in {400, 422}


async def test_events_since_a_sequence(world: World):
    """Only what came after it."""
    task_id = await submitted(world)
    first = (await world.ask("GET", f"{TASKS}/{task_id}/events")).json
    assert [(event["sequence"], event["type"]) for event in first["events"]] == [(1, "queued")]
    assert (await world.ask("GET", f"{TASKS}/{task_id}/events?since=1")).json["events"] == []


async def test_a_task_is_cancelled_once(world: World):
    """204, then 409 because it has ended."""
    task_id = await submitted(world)
    assert (await world.ask("DELETE", f"{TASKS}/{task_id}")).status == 204
    assert (await world.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "cancelled"
    assert (await world.ask("DELETE", f"{TASKS}/{task_id}")).status == 409


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("GET", "/result"), ("GET", "/events"), ("DELETE", "")])
async def test_the_tasks_of_others_do_not_exist(world: World, method, suffix):
    """404 for another user, as for an id that nobody has; an administrator sees all."""
    task_id = await submitted(world)
    answer = await world.ask(method, f"{TASKS}/{task_id}{suffix}", who="other")
    assert (answer.status, answer.json["error"]["code"]) == (404, "TASK_NOT_FOUND")
    assert (await world.ask(method, f"{TASKS}/{task_id}{suffix}", who="admin")).status in {200, 204}


@pytest.mark.parametrize("task_id", ["task_123456", "x", "task_\0", "' OR 1=1 --", "<script>", "..", "\ud7ff" * 9])
async def test_an_id_that_is_none_is_not_found(world: World, task_id):
    """Without asking the service, whose database could not even take some of them."""
    answer = await world.ask("GET", f"{TASKS}/{task_id}")
    assert answer.status == 404


async def test_an_unknown_kind_is_400_with_the_known_ones(world: World):
    """The client learns what it could ask for."""
    answer = await world.ask("POST", TASKS, {"task_type": "levitate"})
    assert answer.status == 400
    assert answer.json["error"]["details"]["known"] == ", ".join(KINDS)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"task_type": 5},
        {"task_type": ""},
        {"task_type": "a b"},
        {"task_type": "automation", "payload": []},
        {"task_type": "automation", "priority": 0},
        {"task_type": "automation", "priority": 11},
        {"task_type": "automation", "priority": "urgent"},
        {"task_type": "automation", "priority": True},
        {"task_type": "automation", "max_attempts": "3"},
        {"task_type": "automation", "run_at": "tomorrow"},
        [],
    ],
)
async def test_bad_submissions_are_refused(world: World, body):
    """And nothing is stored."""
    answer = await world.ask("POST", TASKS, body)
    assert answer.status in {400, 422}
    assert world.tasks.tasks == {}


async def test_a_key_makes_a_submission_repeatable(world: World):
    """The same task again; 422 for another body under the same key."""
    key = {"Idempotency-Key": "k"}
    first = await world.ask("POST", TASKS, EXAMPLE, headers=key)
    again = await world.ask("POST", TASKS, EXAMPLE, headers=key)
    assert (again.status, again.json["task_id"]) == (201, first.json["task_id"])
    assert (await world.ask("POST", TASKS, EXAMPLE | {"payload": {}}, headers=key)).status == 422
