"""Each process gets what it needs of the caller's environment, and nothing else."""

import pytest

from deploy.local.environment import Environment
from deploy.local.plan import SERVICES, Place, addresses, choose_places, migration_command, service_command

CALLER = {
    "PATH": "/bin",
    "OPENAI_API_KEY": "key",
    "GROQ_API_KEY": "named by MESH_LLM_PROVIDERS",
    "JWT_ISSUER": "me",
    "MESH_LOG_LEVEL": "debug",
    "MESH_GRPC_PORT": "1",
    "MESH_INSTANCE": "one for all",
    "DATABASE_POOL_SIZE": "3",
    "AWS_SECRET_ACCESS_KEY": "nobody's",
}
GIVEN = {
    "DATABASE_URL": "postgresql://d",
    "REDIS_URL": "redis://r",
    "AMQP_URL": "amqp://a",
    "TASKS_ADDRESS": "127.0.0.1:7",
    "MESH_DISCOVERY": "consul",
}
SECRETS = {"JWT_SECRET": "s", "ADMIN_PASSWORD": "p"}


def environment_of(name: str) -> dict[str, str]:
    service = next(service for service in SERVICES if service.name == name)
    place = Place(grpc_port=5, metrics_port=6)
    return dict(service_command(service, place, Environment(values=CALLER), GIVEN, SECRETS).env)


@pytest.mark.parametrize("name", [service.name for service in SERVICES])
def test_everyone_gets_its_place_and_the_peers(name: str):
    """Ports and name are its own, discovery is everybody's, and foreign secrets are nobody's."""
    env = environment_of(name)
    assert (env["MESH_GRPC_PORT"], env["MESH_METRICS_PORT"], env["MESH_INSTANCE"]) == ("5", "6", name)
    assert (env["TASKS_ADDRESS"], env["MESH_DISCOVERY"], env["MESH_LOG_LEVEL"]) == ("127.0.0.1:7", "consul", "debug")
    assert "AWS_SECRET_ACCESS_KEY" not in env


@pytest.mark.parametrize(
    ("variable", "holders"),
    [
        ("OPENAI_API_KEY", {"llm"}),
        ("GROQ_API_KEY", {"llm"}),
        ("JWT_SECRET", {"gateway"}),
        ("JWT_ISSUER", {"gateway"}),
        ("ADMIN_PASSWORD", {"gateway"}),
        ("MESH_HTTP_PORT", {"gateway"}),
        ("REDIS_URL", {"ratelimit"}),
        ("DATABASE_URL", {"llm", "tasks", "agents", "gateway"}),
        ("DATABASE_POOL_SIZE", {"llm", "tasks", "agents", "gateway"}),
        ("AMQP_URL", {"llm", "tasks", "tasks-worker-1", "agents", "gateway"}),
    ],
)
def test_who_gets_what(variable: str, holders: set[str]):
    """A variable reaches exactly the processes that read it."""
    assert {service.name for service in SERVICES if variable in environment_of(service.name)} == holders


def test_addresses_are_those_of_the_processes():
    """Every service that is called has one, under the name its callers read."""
    places = choose_places()
    assert addresses(places)["LLM_ADDRESS"] == f"127.0.0.1:{places['llm'].grpc_port}"
    assert set(addresses(places)) == {"AGENTS_ADDRESS", "TASKS_ADDRESS", "LLM_ADDRESS", "RATELIMIT_ADDRESS"}


def test_migrations_get_the_database_only():
    """They are told where the rows are, and no login or key."""
    env = migration_command(Environment(values=CALLER), "postgresql://d").env
    assert env["DATABASE_URL"] == "postgresql://d"
    assert "OPENAI_API_KEY" not in env
