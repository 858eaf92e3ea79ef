"""The settings of the tasks service."""

from pydantic import Field

from chassis.config import Discovery, Group, Postgres, Process, Rabbit, Rpc, Telemetry


class Tasks(Group):
    """Bounds of what waits."""

    most_queued: int = Field(
        default=100_000, gt=0, validation_alias="MESH_TASKS_MOST_QUEUED", description="tasks waiting in one group"
    )
    most_unpublished: int = Field(
        default=200_000,
        gt=0,
        validation_alias="MESH_TASKS_MOST_UNPUBLISHED",
        description="messages waiting for the broker; a task makes about four",
    )
    idempotency_key_seconds: float = Field(
        default=86_400, gt=0, validation_alias="MESH_TASKS_IDEMPOTENCY_KEY_SECONDS", description="how long keys live"
    )


class Settings(Group):
    """Everything this service reads from its environment."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    rpc: Rpc = Field(default_factory=Rpc)
    discovery: Discovery = Field(default_factory=Discovery)
    postgres: Postgres = Field(default_factory=Postgres)
    rabbit: Rabbit = Field(default_factory=Rabbit)
    tasks: Tasks = Field(default_factory=Tasks)
