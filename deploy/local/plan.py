"""What runs and with which settings: the services, in one table, and the environment each of them gets.

It only computes; starting is the supervisor's.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.local.child import Command
from deploy.local.environment import ROOT, Environment
from deploy.local.ports import free_port

LOOPBACK = "127.0.0.1"

# What any program needs to find its files, its language and its way out.
_EVERYONE = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONASYNCIODEBUG")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_EVERYONE_PREFIXES = ("MESH_", "OTEL_")
_PROVIDERS = ("OLLAMA_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "DEEPSEEK_", "LLM_")
_PROVIDER_KEYS = ("_API_KEY", "_API_KEY_FILE")
_EDGE = ("JWT_", "ADMIN_", "ACCESS_TOKEN_", "REFRESH_TOKEN_", "OAUTH_", "OAUTH2_", "OIDC_")
# These say where one process is; a caller's own value would give every process the same place.
_OURS = ("MESH_GRPC_PORT", "MESH_METRICS_PORT", "MESH_INSTANCE", "MESH_HTTP_PORT", "MESH_STATE_DIR", "MESH_LOCAL_STATE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A row of the table: a process's name, its module, and which stores and caller's variables it needs.

    `ends` orders the end: whoever calls others goes before them, so that its last calls are still answered.
    """

    name: str
    module: str
    ends: int
    stores: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    address: str = ""


SERVICES = (
    Service(name="ratelimit", module="services.ratelimit", ends=4, stores=("REDIS",), address="RATELIMIT_ADDRESS"),
    Service(
        name="llm",
        module="services.llm",
        ends=3,
        stores=("DATABASE", "AMQP"),
        prefixes=_PROVIDERS,
        suffixes=_PROVIDER_KEYS,
        address="LLM_ADDRESS",
    ),
    Service(name="tasks", module="services.tasks", ends=4, stores=("DATABASE", "AMQP"), address="TASKS_ADDRESS"),
    Service(name="tasks-worker-1", module="services.tasks.worker", ends=2, stores=("AMQP",)),
    Service(name="agents", module="services.agents", ends=2, stores=("DATABASE", "AMQP"), address="AGENTS_ADDRESS"),
    Service(name="gateway", module="services.gateway", ends=1, stores=("DATABASE", "AMQP"), prefixes=_EDGE),
)
MIGRATED = ("gateway", "tasks", "agents", "llm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a service's process listens."""

    grpc_port: int
    metrics_port: int


def choose_places() -> dict[str, Place]:
    """Free ports for every service."""
    return {service.name: Place(grpc_port=free_port(), metrics_port=free_port()) for service in SERVICES}


def addresses(places: Mapping[str, Place]) -> dict[str, str]:
    """AGENTS_ADDRESS and its like, as host:port."""
    return {s.address: f"{LOOPBACK}:{places[s.name].grpc_port}" for s in SERVICES if s.address}


def base_environment(
    environment: Environment, prefixes: tuple[str, ...] = (), suffixes: tuple[str, ...] = ()
) -> dict[str, str]:
    """The part of the caller's environment that a process gets: what everyone needs and what the arguments name."""
    wanted = _EVERYONE_PREFIXES + prefixes

    def passes(name: str) -> bool:
        named = name in _EVERYONE or name in _PROXIES or name.startswith(wanted)
        # An empty tuple ends nothing.
        return (named or name.endswith(suffixes)) and name not in _OURS

    passed = {name: value for name, value in environment.values.items() if passes(name)}
    return {**passed, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", "PYTHONUNBUFFERED": "1"}


def service_command(
    service: Service, place: Place, environment: Environment, given: Mapping[str, str], secrets: Mapping[str, str]
) -> Command:
    """How a service is started. `given` holds addresses and store URLs, `secrets` what only the gateway may know."""
    prefixes = service.prefixes + tuple(f"{store}_" for store in service.stores)
    # DATABASE_URL goes to those who keep rows, and so on; peers' addresses and discovery go to everyone.
    withheld = {f"{store}_URL" for store in ("DATABASE", "REDIS", "AMQP") if store not in service.stores}
    values = base_environment(environment, prefixes, service.suffixes)
    values |= {name: value for name, value in given.items() if name not in withheld}
    values |= {
        "MESH_GRPC_PORT": str(place.grpc_port),
        "MESH_METRICS_PORT": str(place.metrics_port),
        "MESH_INSTANCE": service.name,
    }
    if service.name == "gateway":
        values |= {**secrets, "MESH_HTTP_PORT": str(environment.http_port)}
    return Command(argv=[sys.executable, "-m", service.module], env=values, cwd=ROOT)


def migration_command(environment: Environment, database_url: str) -> Command:
    """How the schemas of all services that keep rows are brought up to date."""
    values = base_environment(environment, ("DATABASE_",)) | {"DATABASE_URL": database_url}
    return Command(argv=[sys.executable, "-m", "chassis.migrations", *MIGRATED], env=values, cwd=ROOT)
