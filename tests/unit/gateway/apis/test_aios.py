"""Accounts, agents and executions over the AI OS API."""

from dataclasses import replace

import pytest

from tests.unit.gateway.apis.world import USER, WHO, World

FORM = {"content-type": "application/x-www-form-urlencoded"}
AGENT = {"name": "CustomBot", "role": "Custom Analysis", "description": "Performs custom business analysis tasks"}


async def created(world: World) -> str:
    return str((await world.ask("POST", "/api/agents", AGENT, who="admin")).json["id"])


async def test_registration_is_as_the_document_prints_it(world: World):
    """201 and the account."""
    body = {"username": "new_user", "email": "new@example.com", "password": "secure_password123"}
    answer = await world.ask("POST", "/api/auth/register", body, who="")
    assert answer.status == 201
    assert answer.json | {"id": ""} == {
        "id": "",
        "username": "new_user",
        "email": "new@example.com",
        "is_active": True,
        "is_admin": False,
        "created_at": "2026-01-01T00:00:00Z",
        "last_login": None,
    }


async def test_a_short_name_is_refused_as_the_document_prints_it(world: World):
    """With the field and the sentence."""
    body = {"username": "jo", "email": "jo@example.com", "password": "secure_password123"}
    answer = await world.ask("POST", "/api/auth/register", body, who="")
    assert answer.status == 400
    assert answer.json["type"] == "validation_error"
    assert answer.json["errors"] == [{"field": "username", "message": "Username must be at least 3 characters"}]


async def test_a_name_is_taken_once(world: World):
    """409 the second time."""
    body = {"username": "john_doe", "email": "x@example.com", "password": "secure_password123"}
    assert (await world.ask("POST", "/api/auth/register", body, who="")).status == 409


async def test_login_takes_a_form(world: World):
    """As the document prints it."""
    answer = await world.ask(
        "POST", "/api/auth/login", b"username=john_doe&password=secure_password123", who="", headers=FORM
    )
    assert answer.status == 200
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("bearer", 1800)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        (b"username=john_doe&password=wrong", 401),
        (b"username=nobody&password=x", 401),
        (b"username=john_doe", 400),
        (b"username=%00&password=x", 400),
        (b"username=&password=", 400),
        (b"username=%ff%fe&password=x", 401),
        (b"%%%&&&===", 400),
        (b"", 400),
    ],
)
async def test_a_bad_login_is_refused(world: World, form, status):
    """Wrong credentials 401, wrong forms 400."""
    answer = await world.ask("POST", "/api/auth/login", form, who="", headers=FORM)
    assert (answer.status, "detail" in answer.json) == (status, True)


async def test_a_session_is_refreshed_and_ended(world: World):
    """With the token that the login gave."""
    assert (await world.ask("POST", "/api/auth/refresh", {"refresh_token": "amr_1_x_y"}, who="")).status == 200
    assert (await world.ask("POST", "/api/auth/refresh", {"refresh_token": "forged"}, who="")).status == 401
    assert (await world.ask("POST", "/api/auth/logout")).status == 204


async def test_me_is_the_caller(world: World):
    """And nobody without a credential."""
    assert (await world.ask("GET", "/api/auth/me")).json["id"] == USER.user_id
    assert (await world.ask("GET", "/api/auth/me", who="")).status == 401


async def test_a_password_is_changed_by_who_knows_it(world: World):
    """204, or 401 for a wrong one."""
    body = {"current_password": "secure_password123", "new_password": "another_password"}
    assert (await world.ask("POST", "/api/auth/password", body)).status == 204
    assert (await world.ask("POST", "/api/auth/password", body)).status == 401


async def test_a_new_agent_is_as_the_document_prints_it(world: World):
    """Inactive, with no runs."""
    answer = await world.ask("POST", "/api/agents", AGENT, who="admin")
    assert answer.status == 201
    expected = AGENT | {
        "status": "inactive",
        "created_at": "2026-01-01T00:00:00Z",
        "last_execution": None,
        "success_rate": 0.0,
        "total_executions": 0,
        "successful_executions": 0,
    }
    assert {name: answer.json[name] for name in expected} == expected


async def test_success_is_in_percent_with_one_decimal(world: World):
    """120 of 127 are 94.5, as in the document."""
    (agent,) = (await world.ask("GET", "/api/agents?skip=0&limit=100&status=active")).json
    assert (agent["success_rate"], agent["total_executions"], agent["successful_executions"]) == (94.5, 127, 120)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/agents", AGENT),
        ("PUT", "/api/agents/task-coordinator", {}),
        ("DELETE", "/api/agents/task-coordinator", None),
    ],
)
async def test_only_administrators_change_agents(world: World, method, path, body):
    """As the document says, in its words."""
    answer = await world.ask(method, path, body)
    assert (answer.status, answer.json["detail"]) == (403, "Administrative privileges required")


async def test_an_agent_changes_in_what_is_given(world: World):
    """And stays in what is not."""
    agent_id = await created(world)
    change = {"role": "Enhanced Custom Analysis", "status": "active", "capabilities": ["x"], "name": None}
    answer = await world.ask("PUT", f"/api/agents/{agent_id}", change, who="admin")
    assert (answer.status, answer.json["role"], answer.json["status"]) == (200, "Enhanced Custom Analysis", "active")
    assert (answer.json["name"], answer.json["capabilities"]) == ("CustomBot", ["x"])


async def test_a_deleted_agent_is_gone(world: World):
    """204, then 404."""
    agent_id = await created(world)
    assert (await world.ask("DELETE", f"/api/agents/{agent_id}", who="admin")).status == 204
    answer = await world.ask("GET", f"/api/agents/{agent_id}")
    assert (answer.status, answer.json["detail"]) == (404, "Agent not found")


@pytest.mark.parametrize(
    "body", [{}, {"name": "x"}, {"name": "", "role": ""}, {"name": 5, "role": ""}, b"{", [], b"\xff"]
)
async def test_bad_agents_are_refused_with_400(world: World, body):
    """422 is not in its vocabulary."""
    answer = await world.ask("POST", "/api/agents", body, who="admin")
    assert (answer.status, answer.json["type"]) == (400, "validation_error")


async def test_an_execution_is_as_the_document_prints_it(world: World):
    """Accepted, with what is known of how long it takes."""
    body = {"agent_ids": ["task-coordinator"], "parallel": True, "timeout_seconds": 300}
    answer = await world.ask("POST", "/api/execute", body)
    assert answer.status == 200
    assert answer.json | {"execution_id": ""} == {
        "execution_id": "",
        "status": "started",
        "started_at": "2026-01-01T00:00:00Z",
        "agent_count": 1,
        "estimated_duration": 60,
    }


async def test_without_a_body_all_active_agents_run(world: World):
    """The inactive one does not."""
    await created(world)
    assert (await world.ask("POST", "/api/execute")).json["agent_count"] == 1


async def test_the_log_is_as_the_document_prints_it(world: World):
    """A bare list; durations in milliseconds."""
    await world.ask("POST", "/api/execute")
    (run,) = (await world.ask("GET", "/api/executions?skip=0&limit=50&agent_id=task-coordinator&status=success")).json
    expected = {
        "agent_id": "task-coordinator",
        "agent_name": "Task Assignment Coordinator",
        "status": "success",
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": "2026-01-01T00:02:30Z",
        "duration_ms": 150000,
        "error_message": None,
    }
    assert {name: run[name] for name in expected} == expected


async def test_an_execution_belongs_to_who_started_it(world: World):
    """Others see neither it nor its runs; an administrator sees both."""
    execution_id = (await world.ask("POST", "/api/execute")).json["execution_id"]
    path = f"/api/executions/{execution_id}"
    assert (await world.ask("GET", path)).json["successful"] == 1
    assert (await world.ask("GET", path, who="other")).status == 404
    assert (await world.ask("DELETE", path, who="other")).status == 404
    assert (await world.ask("GET", "/api/executions", who="other")).json == []
    assert len((await world.ask("GET", "/api/executions", who="admin")).json) == 1


async def test_an_execution_is_cancelled_once(world: World):
    """204, then 409 because it has ended."""
    path = f"/api/executions/{(await world.ask('POST', '/api/execute')).json['execution_id']}"
    assert (await world.ask("DELETE", path)).status == 204
    assert (await world.ask("DELETE", path)).status == 409


@pytest.mark.parametrize(
    "body",
    [
        {"agent_ids": "x"},
        {"agent_ids": ["\u0001"]},
        {"agent_ids": ["nobody"]},
        {"parallel": "yes"},
        {"timeout_seconds": 0},
        b"{",
    ],
)
async def test_bad_executions_are_refused_with_400(world: World, body):
    """And nothing runs."""
    assert (await world.ask("POST", "/api/execute", body)).status == 400
    assert world.agents.executions == {}


@pytest.mark.parametrize("execution_id", ["x", "\0", "11111111-1111-7111-8111-11111111111G", "<script>"])
async def test_an_id_that_is_none_is_not_found(world: World, execution_id):
    """Without asking anybody."""
    assert (await world.ask("GET", f"/api/executions/{execution_id}")).status == 404


async def test_a_key_for_one_purpose_cannot_change_the_password(world: World, monkeypatch: pytest.MonkeyPatch):
    """It takes a credential for everything, also from somebody who knows the password."""
    monkeypatch.setitem(WHO, "narrow", replace(USER, scopes=frozenset({"chat"})))
    body = {"current_password": "secure_password123", "new_password": "another_password123"}
    answer = await world.ask("POST", "/api/auth/password", body, who="narrow")
    assert answer.status == 403
