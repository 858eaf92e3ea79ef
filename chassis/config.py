"""Settings groups, and the only reader of the environment.

A service's `config.py` composes the groups it needs into one frozen `Settings`. Every name can also be given as
``NAME_FILE``, a file whose content is the value (a mounted secret).
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


class _Environment(PydanticBaseSettingsSource):
    """Reads NAME, or the file that NAME_FILE names, for every alias of a field."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return _from_environment(_aliases(field, field_name)), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            # An empty variable means "not set", as in a compose file with ${NAME:-}.
            if value not in (None, ""):
                found[_key(field, name)] = value
        return found


def _aliases(field: FieldInfo, name: str) -> list[str]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [alias] if isinstance(alias, str) else [name.upper()]


def _key(field: FieldInfo, name: str) -> str:
    return _aliases(field, name)[0] if field.validation_alias is not None else name


def _from_environment(names: list[str], environ: Mapping[str, str] = os.environ) -> str | None:
    for name in names:
        if name in environ:
            return environ[name]
        if path := environ.get(f"{name}_FILE"):
            return Path(path).read_text(encoding="utf-8").strip()
    return None


def given(names: Iterable[str]) -> list[str]:
    """Which of these environment variables hold something; for settings that are understood and have no effect."""
    return [name for name in names if os.environ.get(name)]


class Group(BaseSettings):
    """A frozen group of settings, read from the environment when it is made."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del env_settings, dotenv_settings, file_secret_settings
        return init_settings, _Environment(settings_cls)


class Process(Group):
    """What every process needs."""

    host: str = Field(default="127.0.0.1", validation_alias="MESH_HOST", description="address to bind")
    advertise_host: str = Field(
        default="", validation_alias="MESH_ADVERTISE_HOST", description="address others reach us at; host when empty"
    )
    metrics_port: int = Field(default=0, validation_alias="MESH_METRICS_PORT", description="0: no /metrics")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", validation_alias="MESH_LOG_LEVEL")
    drain_seconds: float = Field(default=15.0, ge=0, validation_alias="MESH_DRAIN_SECONDS")
    # Between "not ready" and the first refusal, so that those who look us up have noticed (endpoint propagation).
    drain_delay_seconds: float = Field(default=0.0, ge=0, validation_alias="MESH_DRAIN_DELAY_SECONDS")
    instance: str = Field(default="", validation_alias="MESH_INSTANCE", description="stable name of this process")
    environment: str = Field(default="development", validation_alias="MESH_ENVIRONMENT")

    @property
    def reachable_at(self) -> str:
        return self.advertise_host or self.host


class Telemetry(Group):
    """Where traces go. Nothing is traced when no endpoint is set."""

    endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    ratio: float = Field(default=1.0, ge=0, le=1, validation_alias="OTEL_TRACES_SAMPLER_ARG")


class Rpc(Group):
    """The gRPC face of a process."""

    port: int = Field(default=0, validation_alias="MESH_GRPC_PORT", description="0: any free port")
    max_message_bytes: int = Field(default=16 * 1024 * 1024, validation_alias="MESH_GRPC_MAX_MESSAGE_BYTES")
    max_connection_age_seconds: int = Field(default=0, validation_alias="MESH_GRPC_MAX_CONNECTION_AGE_SECONDS")


class Discovery(Group):
    """How peers are found. The addresses serve `static`, and every backend until it knows better."""

    backend: Literal["consul", "dns", "static"] = Field(default="static", validation_alias="MESH_DISCOVERY")
    consul_url: str = Field(default="http://127.0.0.1:8500", validation_alias="CONSUL_URL")
    consul_token: SecretStr = Field(default=SecretStr(""), validation_alias="CONSUL_HTTP_TOKEN")
    dns_suffix: str = Field(default="", validation_alias="MESH_DNS_SUFFIX", description="as in .mesh.svc.cluster.local")
    dns_port: int = Field(default=9000, validation_alias="MESH_DNS_PORT")
    agents_address: str = Field(default="", validation_alias="AGENTS_ADDRESS", description="host:port[,host:port…]")
    tasks_address: str = Field(default="", validation_alias="TASKS_ADDRESS")
    llm_address: str = Field(default="", validation_alias="LLM_ADDRESS")
    ratelimit_address: str = Field(default="", validation_alias="RATELIMIT_ADDRESS")

    def static_addresses(self, service: str) -> tuple[str, ...]:
        """The configured addresses of a service, empty when none are."""
        value: str = getattr(self, f"{service}_address", "")
        return tuple(part.strip() for part in value.split(",") if part.strip())


class Postgres(Group):
    """The database and its pool."""

    url: SecretStr = Field(validation_alias="DATABASE_URL", description="postgresql://user:password@host:port/database")
    pool_size: int = Field(default=10, validation_alias="DATABASE_POOL_SIZE")
    max_overflow: int = Field(default=10, validation_alias="DATABASE_MAX_OVERFLOW")
    pool_timeout_seconds: float = Field(default=5.0, validation_alias="DATABASE_POOL_TIMEOUT")
    pool_recycle_seconds: int = Field(default=3600, validation_alias="DATABASE_POOL_RECYCLE")
    statement_timeout_seconds: float = Field(default=10.0, validation_alias="DATABASE_STATEMENT_TIMEOUT")


class Redis(Group):
    """The Redis server, by URL or by parts."""

    url: SecretStr = Field(default=SecretStr(""), validation_alias="REDIS_URL")
    host: str = Field(default="127.0.0.1", validation_alias="REDIS_HOST")
    port: int = Field(default=6379, validation_alias="REDIS_PORT")
    password: SecretStr = Field(default=SecretStr(""), validation_alias="REDIS_PASSWORD")
    cluster: bool = Field(
        default=False,
        validation_alias="REDIS_CLUSTER",
        description="the URL is of a node of a Redis Cluster, or of several: redis://host:port,host:port",
    )

    @model_validator(mode="before")
    @classmethod
    def _compose(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("REDIS_URL") and not values.get("url"):
            password = values.get("REDIS_PASSWORD", "")
            login = f":{password}@" if password else ""
            host, port = values.get("REDIS_HOST", "127.0.0.1"), values.get("REDIS_PORT", 6379)
            return {**values, "REDIS_URL": f"redis://{login}{host}:{port}/0"}
        return values


class Rabbit(Group):
    """The RabbitMQ server and how queues are declared on it."""

    url: SecretStr = Field(validation_alias="AMQP_URL", description="amqp://user:password@host:port/vhost")
    # classic on one node, quorum on three: their meaning is the same here, their durability is not.
    queue_type: Literal["classic", "quorum"] = Field(default="classic", validation_alias="MESH_QUEUE_TYPE")
