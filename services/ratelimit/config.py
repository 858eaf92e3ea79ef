"""What the process is told from outside."""

from pydantic import Field

from chassis.config import Discovery, Group, Process, Redis, Rpc, Telemetry


class Limits(Group):
    """How limits are found and counted."""

    file: str = Field(
        default="", validation_alias="MESH_RATE_LIMITS_FILE", description="the rules file; the built-in one when empty"
    )
    # Redis answers a frame in well under a millisecond. On two cores with three times as many processes as cores that
    # wanted them, 5 ms were missed now and then and 10 ms hardly ever; and two deadlines in a row, the most that a
    # decision waits, still end within Envoy's 20 ms. Where Redis has a core of its own, 5 ms are right. A late answer
    # is still taken in, so a miss costs no more than a `degraded` mark on the decisions of those milliseconds.
    store_deadline_seconds: float = Field(
        default=0.01, gt=0, validation_alias="MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS"
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
