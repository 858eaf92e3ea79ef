"""What the process is told from outside: by the mesh's names, and by those of envoyproxy/ratelimit in its place."""

import re
from typing import Literal
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, field_validator

from chassis.config import Discovery, Group, Process, Redis, Rpc, Telemetry


class Limits(Group):
    """How limits are found and counted."""

    file: str = Field(
        default="", validation_alias="MESH_RATE_LIMITS_FILE", description="the rules file; the built-in one when empty"
    )
    # Redis answers a frame in well under a millisecond, but not before it is given a core. On two cores that were full
    # of one client, two instances and Redis, none of 56,000 decisions missed 5 ms; where nine times as many processes
    # wanted the cores 1 to 5 % did, and 10 ms at most 0.2 %: there more is right. The most that
    # a decision waits is three deadlines, two of them until it is sent, which ends well within Envoy's 20 ms. A late
    # answer is still taken in, so a miss costs no more than a `degraded` mark. Work that waits in this process is no
    # part of it, however much.
    store_deadline_seconds: float = Field(
        default=0.005, gt=0, validation_alias="MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS"
    )
    instances: int = Field(
        default=0,
        ge=0,
        validation_alias="MESH_RATE_LIMITS_INSTANCES",
        description="how many instances share the limits while Redis is away; 0: as many as discovery knows",
    )
    shadow_keys: int = Field(
        default=50_000, ge=2, validation_alias="MESH_RATE_LIMITS_SHADOW_KEYS", description="counters kept in memory"
    )


# As in Go: 24h, 1h30m, 10s, 250ms.
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class _EnvoyRoot(Group):
    runtime_root: str = Field(default="", validation_alias="RUNTIME_ROOT")


class Envoy(_EnvoyRoot):
    """Standing in for envoyproxy/ratelimit, by the names of its own settings."""

    runtime_subdirectory: str = Field(default="", validation_alias="RUNTIME_SUBDIRECTORY")
    runtime_app_directory: str = Field(default="config", validation_alias="RUNTIME_APPDIRECTORY")
    runtime_watch_root: bool = Field(default=True, validation_alias="RUNTIME_WATCH_ROOT")
    runtime_ignore_dot_files: bool = Field(default=False, validation_alias="RUNTIME_IGNOREDOTFILES")
    merge_domains: bool = Field(default=False, validation_alias="MERGE_DOMAIN_CONFIG")
    config_type: Literal["FILE"] = Field(default="FILE", validation_alias="CONFIG_TYPE")
    healthy_with_configuration: bool = Field(default=False, validation_alias="HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED")

    # There every face binds all addresses by default. Here that has to be said.
    host: str = Field(default="127.0.0.1", validation_alias="HOST")
    port: int = Field(default=8080, validation_alias="PORT")
    grpc_host: str = Field(default="127.0.0.1", validation_alias="GRPC_HOST")
    grpc_port: int = Field(default=8081, validation_alias="GRPC_PORT")
    grpc_socket: str = Field(default="", validation_alias="GRPC_UDS", description="a path; in place of host and port")
    debug_host: str = Field(default="127.0.0.1", validation_alias="DEBUG_HOST")
    debug_port: int = Field(default=6070, validation_alias="DEBUG_PORT")
    reuse_ports: bool = Field(
        default=False, validation_alias="MESH_ENVOY_REUSE_PORTS", description="other processes may share these ports"
    )
    tls: bool = Field(default=False, validation_alias="GRPC_SERVER_USE_TLS")
    tls_certificate: str = Field(default="", validation_alias="GRPC_SERVER_TLS_CERT", description="a path")
    tls_key: str = Field(default="", validation_alias="GRPC_SERVER_TLS_KEY", description="a path")
    tls_client_authority: str = Field(default="", validation_alias="GRPC_CLIENT_TLS_CACERT", description="a path")
    tls_client_name: Literal[""] = Field(default="", validation_alias="GRPC_CLIENT_TLS_SAN")
    max_connection_age_seconds: float = Field(default=86400, validation_alias="GRPC_MAX_CONNECTION_AGE")
    max_connection_age_grace_seconds: float = Field(default=3600, validation_alias="GRPC_MAX_CONNECTION_AGE_GRACE")
    log_level: str = Field(default="", validation_alias="LOG_LEVEL")

    backend: Literal["redis"] = Field(default="redis", validation_alias="BACKEND_TYPE")
    redis_socket: Literal["tcp", "unix"] = Field(default="tcp", validation_alias="REDIS_SOCKET_TYPE")
    redis_type: Literal["single", "cluster"] = Field(default="single", validation_alias="REDIS_TYPE")
    redis_auth: SecretStr = Field(default=SecretStr(""), validation_alias="REDIS_AUTH", description="[user:]password")
    redis_tls: bool = Field(default=False, validation_alias="REDIS_TLS")
    key_prefix: str = Field(default="", validation_alias="CACHE_KEY_PREFIX")
    local_cache_bytes: int = Field(default=0, ge=0, validation_alias="LOCAL_CACHE_SIZE_IN_BYTES")
    all_or_nothing: bool = Field(default=False, validation_alias="STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT")

    near_limit_ratio: float = Field(default=0.8, ge=0, le=1, validation_alias="NEAR_LIMIT_RATIO")
    headers: bool = Field(default=False, validation_alias="LIMIT_RESPONSE_HEADERS_ENABLED")
    limit_header: str = Field(default="RateLimit-Limit", validation_alias="LIMIT_LIMIT_HEADER")
    remaining_header: str = Field(default="RateLimit-Remaining", validation_alias="LIMIT_REMAINING_HEADER")
    reset_header: str = Field(default="RateLimit-Reset", validation_alias="LIMIT_RESET_HEADER")
    shadow: bool = Field(default=False, validation_alias=AliasChoices("SHADOW_MODE", "GLOBAL_SHADOW_MODE"))
    quota: bool = Field(default=False, validation_alias=AliasChoices("QUOTA_MODE", "GLOBAL_QUOTA_MODE"))
    metadata: bool = Field(default=False, validation_alias="RESPONSE_DYNAMIC_METADATA")

    @property
    def grpc_address(self) -> str:
        """Where Envoy finds the service."""
        return f"unix:{self.grpc_socket}" if self.grpc_socket else f"{self.grpc_host}:{self.grpc_port}"

    @field_validator("redis_socket", "redis_type", mode="before")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()

    @field_validator("max_connection_age_seconds", "max_connection_age_grace_seconds", mode="before")
    @classmethod
    def _seconds(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not _DURATION.fullmatch(value):
            raise ValueError(f"{value!r} is no duration such as 24h or 1h30m")
        return sum(float(count) * _UNIT_SECONDS[unit] for count, unit in _DURATION_PART.findall(value))


# Settings of envoyproxy/ratelimit that mean nothing here, for what they set is not there: its own ways of sending
# statistics and traces, its pools and pipelines, a second Redis, Memcached, lives of keys, its xDS client.
WITHOUT_MEANING = (
    *("DISABLE_STATS", "EXTRA_TAGS", "PROMETHEUS_ADDR", "PROMETHEUS_MAPPER_YAML", "PROMETHEUS_PATH"),
    *("STATSD_HOST", "STATSD_PORT", "STATS_FLUSH_INTERVAL", "USE_DOG_STATSD", "USE_DOG_STATSD_MOGRIFIERS"),
    *("USE_PROMETHEUS", "USE_STATSD", "TRACING_ENABLED", "TRACING_EXPORTER_PROTOCOL", "TRACING_SAMPLING_RATE"),
    *("TRACING_SERVICE_INSTANCE_ID", "TRACING_SERVICE_NAME", "TRACING_SERVICE_NAMESPACE", "LOG_FORMAT"),
    *(
        "FORCE_START_WITHOUT_INITIAL_CONFIG",
        "EXPIRATION_JITTER_MAX_SECONDS",
        "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION",
        "REDIS_PERSECOND",
    ),
    *("REDIS_PERSECOND_AUTH", "REDIS_PERSECOND_PIPELINE_LIMIT", "REDIS_PERSECOND_PIPELINE_WINDOW"),
    *("REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", "REDIS_PERSECOND_POOL_SIZE", "REDIS_PERSECOND_SENTINEL_AUTH"),
    *("REDIS_PERSECOND_SOCKET_TYPE", "REDIS_PERSECOND_TIMEOUT", "REDIS_PERSECOND_TLS", "REDIS_PERSECOND_TYPE"),
    *("REDIS_PERSECOND_URL", "REDIS_PIPELINE_LIMIT", "REDIS_PIPELINE_WINDOW", "REDIS_POOL_ON_EMPTY_BEHAVIOR"),
    *("REDIS_POOL_SIZE", "REDIS_SENTINEL_AUTH", "REDIS_TIMEOUT", "MEMCACHE_HOST_PORT"),
    *("MEMCACHE_MAX_IDLE_CONNS", "MEMCACHE_SRV", "MEMCACHE_SRV_REFRESH", "MEMCACHE_TLS"),
)
_LEVELS = {"warn": "warning", "fatal": "error", "panic": "error", "trace": "debug"}


def _envoy() -> Envoy | None:
    """Names such as HOST and PORT are read by those alone who mean them so: where RUNTIME_ROOT is set."""
    return Envoy() if _EnvoyRoot().runtime_root else None


def _process() -> Process:
    """Takes the level of envoyproxy/ratelimit's name where it is stood in for and the mesh's own says nothing."""
    process, envoy = Process(), _envoy()
    if envoy is None or not envoy.log_level or "log_level" in process.model_fields_set:
        return process
    level = envoy.log_level.lower()
    return Process.model_validate({"log_level": _LEVELS.get(level, level)})


def _redis() -> Redis:
    """Takes the address as envoyproxy/ratelimit does where it is stood in for: host:port or a path, and no URL."""
    redis, envoy = Redis(), _envoy()
    address = redis.url.get_secret_value()
    if envoy is None or "://" in address:
        return redis
    login = ":".join(quote(part, safe="") for part in envoy.redis_auth.get_secret_value().split(":", 1))
    login = f"{login}@" if ":" in login else f":{login}@" if login else ""
    scheme = "unix" if envoy.redis_socket == "unix" else "rediss" if envoy.redis_tls else "redis"
    cluster = envoy.redis_type == "cluster"
    places = address if cluster else address.split(",")[0]
    return Redis(url=SecretStr(f"{scheme}://{login}{places}"), cluster=cluster)


class Settings(Group):
    """All settings of the service."""

    process: Process = Field(default_factory=_process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    rpc: Rpc = Field(default_factory=Rpc)
    discovery: Discovery = Field(default_factory=Discovery)
    redis: Redis = Field(default_factory=_redis)
    limits: Limits = Field(default_factory=Limits)
    envoy: Envoy | None = Field(default_factory=_envoy)
