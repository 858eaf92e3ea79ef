"""The settings of the tasks service."""

from pydantic import Field, field_validator

from chassis.config import Discovery, Group, Postgres, Process, Rabbit, Rpc, Telemetry


class Tasks(Group):
    """Bounds of what waits."""

    most_queued: int = Field(
        default=100_000, gt=0, validation_alias="MESH_TASKS_MOST_QUEUED", description="tasks waiting in one group"
    )
    queue_limits: str = Field(
        default="",
        validation_alias="MESH_TASKS_QUEUE_LIMITS",
        description="group=tasks[,group=tasks…] where the bound of a group is another one",
    )
    most_unpublished: int = Field(
        default=200_000,
        gt=0,
        validation_alias="MESH_TASKS_MOST_UNPUBLISHED",
        description="news waiting for the broker; a task makes about three",
    )
    idempotency_key_seconds: float = Field(
        default=86_400,
        gt=0,
        le=172_800,
        validation_alias="MESH_TASKS_IDEMPOTENCY_KEY_SECONDS",
        description="how long keys live",
    )
    retained_days: int = Field(
        default=14,
        ge=3,
        le=3650,
        validation_alias="MESH_TASKS_RETAINED_DAYS",
        description="days that ended tasks are kept",
    )

    @field_validator("queue_limits")
    @classmethod
    def _are_limits(cls, value: str) -> str:
        for part in filter(None, value.split(",")):
            group, _, most = part.partition("=")
            if not group.strip() or not most.strip().isdecimal():
                raise ValueError("as in builtin=1000,agents=200")
        return value

    @property
    def limits_by_group(self) -> dict[str, int]:
        """The bounds of groups that have their own."""
        pairs = (part.partition("=") for part in filter(None, self.queue_limits.split(",")))
        return {group.strip(): int(most) for group, _, most in pairs}


class Settings(Group):
    """Everything this service reads from its environment."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    rpc: Rpc = Field(default_factory=Rpc)
    discovery: Discovery = Field(default_factory=Discovery)
    postgres: Postgres = Field(default_factory=Postgres)
    rabbit: Rabbit = Field(default_factory=Rabbit)
    tasks: Tasks = Field(default_factory=Tasks)
