"""Tasks over the native API."""

import asyncio
from dataclasses import replace

import pytest
from mesh.tasks.v1 import tasks_pb2

from tests.unit.gateway.apis.task_fakes import KINDS
from tests.unit.gateway.apis.world import USER, WHO, World

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


@pytest.mark.parametrize("field", ["run_at", "deadline_at"])
@pytest.mark.parametrize("value", [253402300800, 1.5, "253402300800", "1767225600", True])
async def test_times_are_written_out(world: World, field, value):
    """A number could be seconds or milliseconds, and a task must not run at once because of the guess."""
    single = await world.ask("POST", TASKS, EXAMPLE | {field: value})
    batch = await world.ask("POST", f"{TASKS}/batch", {"tasks": [EXAMPLE | {field: value}]})
    assert (single.status, batch.status) == (400, 400)
    assert single.json["error"]["details"]["field"] == field
    assert batch.json["error"]["details"]["field"] == f"tasks.0.{field}"
    assert "ISO 8601" in single.json["error"]["details"]["reason"]
    assert world.tasks.requests == []


async def test_a_wrong_priority_is_called_that(world: World):
    """Both of its forms are told, and no name of a type."""
    answer = await world.ask("POST", TASKS, EXAMPLE | {"priority": 99})
    details = answer.json["error"]["details"]
    assert details["field"] == "priority"
    assert {one["field"] for one in details["fields"]} == {"priority"}


async def test_a_submission_may_wait_for_others_and_be_unique(world: World):
    """What it waits for, its key and its times go to the service as they are said."""
    first = await submitted(world)
    wishes = {"depends_on": [first], "join": "any", "unique_key": "nightly", "run_at": "2026-01-01T00:10:00Z"}
    answer = await world.ask("POST", TASKS, EXAMPLE | wishes)
    assert (answer.status, answer.json["status"]) == (201, "scheduled")
    # Five minutes of work from when it may begin.
    assert answer.json["estimated_completion"] == "2026-01-01T00:15:00Z"
    view = (await world.ask("GET", f"{TASKS}/{answer.json['task_id']}")).json
    assert (view["depends_on"], view["join"], view["unique_key"]) == ([first], "any", "nightly")


@pytest.mark.parametrize(
    "wish",
    [
        {"depends_on": ["task_1"]},
        {"depends_on": ["#other"]},
        {"join": "most"},
        {"unique_key": ""},
        {"priority": 11},
        {"priority": 0},
        {"timeout_seconds": 0},
        {"run_at": "tomorrow"},
    ],
)
async def test_bad_wishes_are_refused(world: World, wish):
    """Before the service is asked."""
    assert (await world.ask("POST", TASKS, EXAMPLE | wish)).status in {400, 422}
    assert world.tasks.requests == []


async def test_a_batch_is_accepted_in_one_call(world: World):
    """In order; its tasks may name each other."""
    tasks = [EXAMPLE | {"name": "first"}, EXAMPLE | {"depends_on": ["#first"]}]
    answer = await world.ask("POST", f"{TASKS}/batch", {"tasks": tasks})
    assert answer.status == 201
    assert [task["status"] for task in answer.json["tasks"]] == ["queued", "scheduled"]
    assert [request.name for request in world.tasks.requests] == ["first", ""]


@pytest.mark.parametrize("tasks", [[], [EXAMPLE] * 501, [EXAMPLE | {"name": "a b"}]])
async def test_a_bad_batch_is_refused(world: World, tasks):
    """Empty, too large, or with names that are none."""
    assert (await world.ask("POST", f"{TASKS}/batch", {"tasks": tasks})).status in {400, 422}


async def test_a_cancel_that_comes_late_says_how_the_task_ended(world: World):
    """In the words of this API."""
    task_id = await submitted(world)
    world.tasks.tasks[task_id].state = tasks_pb2.STATE_SUCCEEDED
    answer = await world.ask("DELETE", f"{TASKS}/{task_id}")
    assert (answer.status, answer.json["error"]["details"]) == (409, {"status": "completed"})


async def test_a_failed_task_is_requeued(world: World):
    """And one that succeeded is not."""
    task_id = await submitted(world)
    world.tasks.tasks[task_id].state = tasks_pb2.STATE_DEAD
    answer = await world.ask("POST", f"{TASKS}/{task_id}/requeue", {"attempts": 2})
    assert (answer.status, answer.json["status"]) == (200, "queued")
    world.tasks.tasks[task_id].state = tasks_pb2.STATE_SUCCEEDED
    again = await world.ask("POST", f"{TASKS}/{task_id}/requeue")
    assert (again.status, again.json["error"]["code"]) == (409, "NOT_REQUEUABLE")


async def test_a_repeated_submission_gets_the_stored_answer(world: World):
    """Byte by byte, whatever became of the task and however late it is."""
    headers = {"Idempotency-Key": '"key-1"'}
    first = await world.ask("POST", TASKS, EXAMPLE, headers=headers)
    world.clock.advance(60)
    world.tasks.tasks[first.json["task_id"]].state = tasks_pb2.STATE_SUCCEEDED
    again = await world.ask("POST", TASKS, EXAMPLE, headers=headers)
    assert (again.status, again.body) == (201, first.body)


async def test_a_submission_under_way_refuses_its_repetition(world: World):
    """409 until the first is answered; the key of another user is another key."""
    go = asyncio.Event()
    submit = world.tasks.Submit

    async def slow(request, **options):
        await go.wait()
        return await submit(request, **options)

    world.tasks.Submit = slow  # type: ignore[method-assign]  # a service that takes its time
    headers = {"Idempotency-Key": "key-1"}
    first = asyncio.ensure_future(world.ask("POST", TASKS, EXAMPLE, headers=headers))
    other = asyncio.ensure_future(world.ask("POST", TASKS, EXAMPLE, headers=headers, who="other"))
    await asyncio.sleep(0)
    again = await world.ask("POST", TASKS, EXAMPLE, headers=headers)
    assert (again.status, again.json["error"]["code"]) == (409, "IDEMPOTENCY_IN_FLIGHT")
    go.set()
    assert ((await first).status, (await other).status) == (201, 201)


@pytest.mark.parametrize("path", [TASKS, f"{TASKS}/batch", f"{TASKS}/schedules"])
async def test_a_task_is_no_way_around_its_own_route(world: World, path: str):
    """Models are fetched for administrators alone."""
    task = {"task_type": "model.pull", "payload": {"model": "m"}}
    body = {TASKS: task, f"{TASKS}/batch": {"tasks": [task]}}.get(path, {"name": "n", "cron": "@daily", "task": task})
    assert (await world.ask("POST", path, body)).status == 403
    assert not world.tasks.requests
    if path == TASKS:
        assert (await world.ask("POST", path, body, who="admin")).status == 201


async def test_a_conversation_as_a_task_needs_the_scope_of_conversations(world: World, monkeypatch: pytest.MonkeyPatch):
    """Whatever tasks the credential may submit."""
    task = {"task_type": "llm.batch", "payload": {"items": [{"message": "Hi"}]}}
    for scopes, status in (({"tasks"}, 403), ({"tasks", "chat"}, 201), ({"*"}, 201)):
        monkeypatch.setitem(WHO, "user", replace(USER, scopes=frozenset(scopes)))
        assert (await world.ask("POST", TASKS, task)).status == status
