"""The settings of the tasks service."""

from ipaddress import IPv4Network, IPv6Network, ip_network

from pydantic import Field, field_validator

from chassis.config import Discovery, Group, Postgres, Process, Rabbit, Rpc, Telemetry
from services.tasks.model.tries import SCHEDULE_SECONDS, Bounds, Policy, Share


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
        description="rows of news that wait for the broker; one tells of up to 200 tasks",
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


class Webhooks(Group):
    """How webhooks are called, and which."""

    allow_http: bool = Field(
        default=False, validation_alias="MESH_WEBHOOKS_ALLOW_HTTP", description="also addresses without TLS"
    )
    allowed_networks: str = Field(
        default="",
        validation_alias="MESH_WEBHOOKS_ALLOWED_NETWORKS",
        description="CIDR[,CIDR…]: private networks that may be called",
    )
    schedule_seconds: str = Field(
        default=",".join(f"{seconds:g}" for seconds in SCHEDULE_SECONDS),
        validation_alias="MESH_WEBHOOKS_SCHEDULE_SECONDS",
        description="the wait before each try of a delivery",
    )
    timeout_seconds: float = Field(
        default=15.0, gt=0, le=60, validation_alias="MESH_WEBHOOKS_TIMEOUT_SECONDS", description="of a try in all"
    )
    most_retry_after_seconds: float = Field(
        default=86_400,
        ge=0,
        le=604_800,
        validation_alias="MESH_WEBHOOKS_MOST_RETRY_AFTER_SECONDS",
        description="a longer Retry-After is cut to it",
    )
    failing_seconds: float = Field(
        default=432_000,
        gt=0,
        validation_alias="MESH_WEBHOOKS_FAILING_SECONDS",
        description="a webhook whose every try failed for so long is disabled",
    )
    most_per_owner: int = Field(default=20, gt=0, le=200, validation_alias="MESH_WEBHOOKS_MOST_PER_OWNER")
    most_under_way: int = Field(
        default=256, gt=0, validation_alias="MESH_WEBHOOKS_MOST_UNDER_WAY", description="tries at a time, in a process"
    )
    most_per_webhook: int = Field(
        default=8, gt=0, validation_alias="MESH_WEBHOOKS_MOST_PER_WEBHOOK", description="of these, to one webhook"
    )
    # A small part, so that it takes many owners with slow endpoints to hold up everybody.
    most_of_owner: int = Field(
        default=32,
        gt=0,
        validation_alias="MESH_WEBHOOKS_MOST_OF_OWNER",
        description="of these, to one owner's webhooks",
    )
    most_waiting: int = Field(
        default=10_000,
        gt=0,
        validation_alias="MESH_WEBHOOKS_MOST_WAITING",
        description="deliveries that may wait for one webhook; past it the oldest are given up",
    )
    retained_days: int = Field(
        default=14,
        gt=0,
        le=3650,
        validation_alias="MESH_WEBHOOKS_RETAINED_DAYS",
        description="days that the log of deliveries is kept",
    )

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        _networks(value)
        return value

    @field_validator("schedule_seconds")
    @classmethod
    def _is_schedule(cls, value: str) -> str:
        if not all(0 <= seconds <= _MOST_WAIT_SECONDS for seconds in _schedule(value)):
            raise ValueError("as in 0,5,300")
        return value

    @property
    def networks(self) -> list[IPv4Network | IPv6Network]:
        """Private networks that may be called."""
        return _networks(self.allowed_networks)

    @property
    def bounds(self) -> Bounds:
        """What the tries keep to."""
        return Bounds(
            policy=Policy(
                schedule_seconds=_schedule(self.schedule_seconds),
                most_retry_after_seconds=self.most_retry_after_seconds,
            ),
            timeout_seconds=self.timeout_seconds,
            failing_seconds=self.failing_seconds,
            most_under_way=self.most_under_way,
            share=Share(per_webhook=self.most_per_webhook, per_owner=self.most_of_owner),
            most_waiting=self.most_waiting,
            retained_days=self.retained_days,
        )


_MOST_WAIT_SECONDS = 30 * 86_400


def _networks(value: str) -> list[IPv4Network | IPv6Network]:
    return [ip_network(part.strip()) for part in filter(None, value.split(","))]


def _schedule(value: str) -> tuple[float, ...]:
    return tuple(float(part) for part in value.split(","))


class Settings(Group):
    """Everything this service reads from its environment."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    rpc: Rpc = Field(default_factory=Rpc)
    discovery: Discovery = Field(default_factory=Discovery)
    postgres: Postgres = Field(default_factory=Postgres)
    rabbit: Rabbit = Field(default_factory=Rabbit)
    tasks: Tasks = Field(default_factory=Tasks)
    webhooks: Webhooks = Field(default_factory=Webhooks)
