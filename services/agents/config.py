"""Settings of the agents service."""

from pydantic import Field

from chassis.config import Discovery, Group, Postgres, Process, Rabbit, Rpc, Telemetry


class Running(Group):
    """How agents are run in this process."""

    slots: int = Field(default=32, ge=1, validation_alias="MESH_AGENT_SLOTS", description="agents asked at once")
    repair_every_seconds: float = Field(default=5.0, gt=0, validation_alias="MESH_AGENT_REPAIR_SECONDS")
    # After this long without news of a run its task is looked at; the bus is usually faster by far.
    quiet_seconds: float = Field(default=10.0, gt=0, validation_alias="MESH_AGENT_QUIET_SECONDS")


class Settings(Group):
    """Everything the process is told from outside."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    rpc: Rpc = Field(default_factory=Rpc)
    discovery: Discovery = Field(default_factory=Discovery)
    postgres: Postgres = Field(default_factory=Postgres)
    rabbit: Rabbit = Field(default_factory=Rabbit)
    running: Running = Field(default_factory=Running)
