"""What one copy consists of: its private stores, its services, and the addresses that bind them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.child import Child, Command, OnLine
from deploy.local.console import Console
from deploy.local.consul_program import fetch_consul, find_consul
from deploy.local.environment import Environment, without_password
from deploy.local.jaeger_program import find_jaeger
from deploy.local.logs import says_ready
from deploy.local.plan import LOOPBACK, SERVICES, Service, addresses, choose_places, service_command
from deploy.local.probe import grpc_ready, http_ready
from deploy.local.problems import Problem
from deploy.local.state import StateDir
from deploy.local.stores.consul import Consul
from deploy.local.stores.jaeger import Jaeger
from deploy.local.stores.postgres import Postgres
from deploy.local.stores.rabbitmq import RabbitMQ
from deploy.local.stores.redis import Redis
from deploy.local.stores.store import Store

_LEVELS_WITHOUT_READY = ("warning", "error")


class Process:
    """One service's process."""

    def __init__(self, service: Service, command: Command, state: StateDir, on_line: OnLine) -> None:
        self.name = service.name
        self.child = Child(service.name, state, self._hear)
        self._service = service
        self._command = command
        self._on_line = on_line
        self._said_ready = False

    @property
    def children(self) -> tuple[Child, ...]:
        return (self.child,)

    @property
    def ends(self) -> int:
        """Its place in the order of the end, 1 first."""
        return self._service.ends

    def start(self) -> None:
        """Starts the process and returns at once; `ready` says when it serves."""
        self._said_ready = False
        self.child.start(self._command)

    def _hear(self, name: str, line: str) -> None:
        self._said_ready = self._said_ready or says_ready(line)
        self._on_line(name, line)

    async def ready(self) -> bool:
        """Whether it serves now, asked in its own protocol; a worker serves nobody and is believed what it logs."""
        if self._service.name == "gateway":
            return await http_ready(f"http://{LOOPBACK}:{self._command.env['MESH_HTTP_PORT']}/readyz")
        if self._service.address:
            return await grpc_ready(f"{LOOPBACK}:{self._command.env['MESH_GRPC_PORT']}")
        if self._command.env.get("MESH_LOG_LEVEL") in _LEVELS_WITHOUT_READY:
            return await http_ready(f"http://{LOOPBACK}:{self._command.env['MESH_METRICS_PORT']}/metrics")
        return self._said_ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """The parts of one copy. `given` is what services and `.run/env` are told: addresses, store URLs, discovery."""

    stores: tuple[Store, ...]
    processes: tuple[Process, ...]
    given: Mapping[str, str]
    secrets: Mapping[str, str]
    gateway_url: str
    jaeger_url: str

    @property
    def children(self) -> tuple[Child, ...]:
        """Every child there may be, services first."""
        units: tuple[Store | Process, ...] = self.processes + self.stores
        return tuple(child for unit in units for child in unit.children)

    def exported(self) -> dict[str, str]:
        """The content of `.run/env`."""
        values = {"GATEWAY_URL": self.gateway_url, **self.secrets, **self.given}
        if self.jaeger_url:
            values["JAEGER_URL"] = self.jaeger_url
        hidden = {"JWT_SECRET", "MESH_DISCOVERY", "OTEL_EXPORTER_OTLP_ENDPOINT"}
        return {name: value for name, value in values.items() if name not in hidden}


def assemble(environment: Environment, state: StateDir, console: Console) -> Mesh:
    """Decides what runs here and where. May download Consul; starts nothing."""
    stores = Stores(environment, state, console)
    places = choose_places()
    given = {**stores.given, **addresses(places)}
    secrets = gateway_secrets(environment, state)
    processes = []
    for service in SERVICES:
        command = service_command(service, places[service.name], environment, given, secrets)
        processes.append(Process(service, command, state, console.service_line))
    return Mesh(
        stores=tuple(stores.private),
        processes=tuple(processes),
        given=given,
        secrets=secrets,
        gateway_url=f"http://{LOOPBACK}:{environment.http_port}",
        jaeger_url=stores.jaeger_url,
    )


def gateway_secrets(environment: Environment, state: StateDir) -> dict[str, str]:
    """The admin's login and the token secret: the caller's own, or generated once for this state directory."""
    generated = state.secrets()
    return {
        "ADMIN_USERNAME": environment.get("ADMIN_USERNAME") or "admin",
        "ADMIN_PASSWORD": environment.get("ADMIN_PASSWORD") or generated["ADMIN_PASSWORD"],
        "JWT_SECRET": environment.get("JWT_SECRET") or environment.get("SECRET_KEY") or generated["JWT_SECRET"],
    }


class Stores:
    """The stores of one copy: a private one for each that the caller gives no URL of."""

    def __init__(self, environment: Environment, state: StateDir, console: Console) -> None:
        self._environment = environment
        self._state = state
        self._console = console
        self.private: list[Store] = []
        self.given: dict[str, str] = {}
        self.jaeger_url = ""
        self._choose()
        self._choose_discovery()
        self._choose_tracing()

    def _choose(self) -> None:
        line = self._console.store_line
        if url := self._environment.get("DATABASE_URL"):
            self._take("Postgres", "DATABASE_URL", url)
        else:
            self._add("DATABASE_URL", Postgres(self._state, line))
        if url := self._environment.redis_url:
            self._take("Redis", "REDIS_URL", url)
        else:
            self._add("REDIS_URL", Redis(self._state, line))
        if url := self._environment.get("AMQP_URL"):
            self._take("RabbitMQ", "AMQP_URL", url)
        else:
            self._add("AMQP_URL", RabbitMQ(self._state, line))

    def _take(self, store: str, variable: str, url: str) -> None:
        # Said aloud: a variable left over in a shell must not send this copy to another's data in silence.
        where = without_password(url)
        self._console.say(f"{store} is the one that {variable} names ({where}); unset it for a private one")
        self.given[variable] = url

    def _add(self, variable: str, store: Store) -> None:
        self.private.append(store)
        self.given[variable] = store.url

    def _choose_discovery(self) -> None:
        if asked := self._environment.get("MESH_DISCOVERY"):
            self.given["MESH_DISCOVERY"] = asked
            if asked != "consul":
                return
        self.given["MESH_DISCOVERY"] = "consul"
        if url := self._environment.get("CONSUL_URL"):
            self._take("Consul", "CONSUL_URL", url)
        elif (program := self._consul_program()) is not None:
            self._add("CONSUL_URL", Consul(self._state, program, self._console.store_line))
        else:
            self.given["MESH_DISCOVERY"] = "static"

    def _consul_program(self) -> Path | None:
        cache = self._environment.cache
        if (program := find_consul(cache)) is not None:
            return program
        self._console.say("Fetching Consul from the older Debian release")
        try:
            return fetch_consul(cache)
        except Problem as problem:
            self._console.say(f"No Consul ({problem}): services find each other by fixed addresses instead")
            return None

    def _choose_tracing(self) -> None:
        if self._environment.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            return
        if (program := find_jaeger(self._environment)) is not None:
            jaeger = Jaeger(self._state, program, self._console.store_line)
            self._add("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger)
            self.jaeger_url = jaeger.page_url
