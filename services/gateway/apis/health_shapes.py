"""What the health document and the probes say: the union of every dialect's fields, none of them in conflict."""

from typing import NotRequired

from typing_extensions import TypedDict


class RedisHealth(TypedDict):
    """`latency` is that of the rate-limit service's answer, which speaks to Redis, as in ``2ms``."""

    status: str
    latency: str


class WorkersHealth(TypedDict):
    """Live worker sessions, and those that are not draining."""

    active: int
    total: int


class QueueHealth(TypedDict):
    """`processing_rate` as in ``50/sec``."""

    length: int
    processing_rate: str


class QueuesHealth(TypedDict):
    """Tasks that wait, and results that wait to be stored."""

    tasks: QueueHealth
    results: QueueHealth


class Components(TypedDict):
    """The parts by which the customer-service API knows the mesh."""

    redis: RedisHealth
    workers: WorkersHealth
    queues: QueuesHealth


class MachineFigures(TypedDict):
    """As text with a unit, as in ``45%`` and ``100ms``."""

    cpu_usage: str
    memory_usage: str
    average_response_time: str


class PerformanceFigures(TypedDict):
    """`cache_hit_rate` is the share of answers that came out of a response cache."""

    response_time_ms: int
    cache_hit_rate: float


class HealthDocument(TypedDict):
    """How the mesh is; `status` is ``healthy`` or ``degraded``, values of `services` too, or ``unknown``."""

    status: str
    timestamp: str
    redis: str
    ai_providers: dict[str, bool]
    uptime: float
    components: Components
    metrics: MachineFigures
    services: dict[str, str]
    performance: PerformanceFigures


class CheckDocument(TypedDict):
    """One dependency; it says nothing about readiness."""

    ok: bool
    latency_ms: float


class ProbeDocument(TypedDict):
    """What a probe is told; `checks` with ``?verbose``."""

    status: str
    checks: NotRequired[dict[str, CheckDocument]]
