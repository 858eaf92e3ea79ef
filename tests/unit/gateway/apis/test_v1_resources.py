"""Agents, models and keys over the native API."""

import pytest

from tests.unit.gateway.apis.world import World


async def test_agents_are_as_the_document_prints_them(world: World):
    """With live status and the port of their runner."""
    assert (await world.ask("GET", "/api/v1/agents")).json == {
        "agents": [
            {
                "id": "task-coordinator",
                "name": "Task Assignment Coordinator",
                "status": "healthy",
                "port": 8551,
                "capabilities": ["task_distribution", "priority_queue"],
            }
        ]
    }


@pytest.mark.parametrize(
    ("status", "served", "shown"),
    [("active", True, "healthy"), ("active", False, "unhealthy"), ("inactive", True, "inactive")],
)
async def test_the_status_is_live(world: World, status, served, shown):
    """From the runner, not from the row alone."""
    agent = world.agents.agents["task-coordinator"]
    agent.status, agent.served = status, served
    assert (await world.ask("GET", "/api/v1/agents/task-coordinator/health")).json["status"] == shown


@pytest.mark.parametrize("suffix", ["", "/health"])
@pytest.mark.parametrize("agent_id", ["nobody", "a\0b", "' OR 1=1"])
async def test_an_unknown_agent_is_not_found(world: World, agent_id, suffix):
    """Whatever it looks like."""
    answer = await world.ask("GET", f"/api/v1/agents/{agent_id}{suffix}")
    assert (answer.status, answer.json["error"]["code"]) == (404, "AGENT_NOT_FOUND")


async def test_models_are_as_the_document_prints_them(world: World):
    """Sizes for people."""
    listed = (await world.ask("GET", "/api/v1/models")).json
    assert listed["default_model"] == "echo"
    assert listed["models"][1] | {"provider": ""} == {
        "name": "org/tinyllama",
        "size": "637MB",
        "status": "available",
        "last_used": None,
        "provider": "",
    }


async def test_a_model_is_fetched_as_a_task(world: World):
    """By administrators; a second request for the same model while it is fetched finds the same task."""
    refused = await world.ask("POST", "/api/v1/models/pull", {"model": "llama2"})
    assert (refused.status, world.tasks.requests) == (403, [])
    answer = await world.ask("POST", "/api/v1/models/pull", {"model": "llama2:7b"}, who="admin")
    assert (answer.status, answer.json["status"]) == (202, "queued")
    (submitted,) = world.tasks.requests
    assert (submitted.kind, submitted.unique_key) == ("model.pull", "llama2:7b")
    assert submitted.payload == b'{"model":"llama2:7b"}'


@pytest.mark.parametrize("name", ["", "../etc/passwd", "a b", "x" * 201, "-rf"])
async def test_what_is_no_name_of_a_model_is_not_fetched(world: World, name):
    """Refused before a task is made."""
    answer = await world.ask("POST", "/api/v1/models/pull", {"model": name}, who="admin")
    assert (answer.status, answer.json["error"]["details"]["field"]) == (400, "model")
    assert not world.tasks.requests


async def test_a_model_can_be_looked_at(world: World):
    """A name may hold a slash; an unknown one is not found."""
    assert (await world.ask("GET", "/api/v1/models/org/tinyllama/info")).json["size_bytes"] == 637_000_000
    missing = await world.ask("GET", "/api/v1/models/none/info")
    assert (missing.status, missing.json["error"]["code"]) == (404, "MODEL_NOT_FOUND")


async def test_a_key_is_shown_once(world: World):
    """When it is made, and never again."""
    made = await world.ask("POST", "/api/v1/keys", {"name": "ci", "scopes": ["chat"]})
    assert made.status == 201
    assert made.json["key"].startswith("amk_")
    (listed,) = (await world.ask("GET", "/api/v1/keys")).json["keys"]
    assert "key" not in listed
    assert (listed["name"], listed["scopes"], listed["revoked_at"]) == ("ci", ["chat"], None)


async def test_only_its_owner_revokes_a_key(world: World):
    """For others it does not exist."""
    key_id = (await world.ask("POST", "/api/v1/keys", {"name": "ci"})).json["id"]
    assert (await world.ask("DELETE", f"/api/v1/keys/{key_id}", who="other")).status == 404
    assert (await world.ask("DELETE", f"/api/v1/keys/{key_id}")).status == 204
    assert (await world.ask("GET", "/api/v1/keys")).json["keys"][0]["revoked_at"] is not None


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": 5}, {"name": "x", "scopes": []}, {"name": "x", "scopes": "*"}]
)
async def test_bad_keys_are_refused(world: World, body):
    """And none is made."""
    assert (await world.ask("POST", "/api/v1/keys", body)).status in {400, 422}
    assert world.identity.keys == {}
