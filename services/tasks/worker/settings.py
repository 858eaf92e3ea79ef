"""Settings of the built-in worker."""

from pydantic import Field

from chassis.config import Discovery, Group, Process, Rabbit, Telemetry


class Working(Group):
    """How much it does at once, and where it may reach."""

    slots: int = Field(default=64, ge=1, validation_alias="MESH_WORKER_SLOTS", description="tasks run at once")
    allowed_hosts: str = Field(
        default="",
        validation_alias="MESH_AUTOMATION_ALLOWED_HOSTS",
        description="host[:port][,host[:port]…] that automation's http_request may call; none when empty",
    )

    @property
    def allowed(self) -> frozenset[str]:
        """The allow-list, lower case."""
        return frozenset(part.strip().lower() for part in self.allowed_hosts.split(",") if part.strip())


class Settings(Group):
    """Everything the process is told from outside."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    discovery: Discovery = Field(default_factory=Discovery)
    rabbit: Rabbit = Field(default_factory=Rabbit)
    working: Working = Field(default_factory=Working)
