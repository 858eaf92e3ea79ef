"""What the process is told from outside."""

from pydantic import Field

from chassis.config import Discovery, Group, Process, Redis, Rpc, Telemetry


class Limits(Group):
    """How limits are found and counted."""

    file: str = Field(
        default="", validation_alias="MESH_RATE_LIMITS_FILE", description="the rules file; the built-in one when empty"
    )
    # Redis answers a frame in well under a millisecond; a busy machine stretches that to a few. An answer that comes
    # later is still taken in, so one miss costs nothing but a `degraded` mark on the decisions of those milliseconds.
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


class Settings(Group):
    """All settings of the service."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    rpc: Rpc = Field(default_factory=Rpc)
    discovery: Discovery = Field(default_factory=Discovery)
    redis: Redis = Field(default_factory=Redis)
    limits: Limits = Field(default_factory=Limits)
