"""Health for people and probes: one document in the words of every dialect, and the three probes of Kubernetes.

Everything is answered from memory; `Observation.watch` asks the services in the background, so a store that hangs
slows nobody down. Asks no model provider anything.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs

import psutil
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc
from mesh.ratelimit.v1 import ratelimit_pb2, ratelimit_pb2_grpc
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from pydantic import TypeAdapter

from chassis.clock import Clock
from chassis.errors import MeshError
from chassis.health import Health
from services.gateway.apis.exchange import send_json
from services.gateway.apis.health_shapes import CheckDocument, Components, HealthDocument, ProbeDocument
from services.gateway.apis.operation import Operation
from services.gateway.edge.asgi import App, Receive, Scope, Send
from services.gateway.edge.metrics import Metrics
from services.gateway.views import iso

T = TypeVar("T")

_ASK_EVERY_SECONDS = 2.0
_ASK_TIMEOUT_SECONDS = 1.0
_OK, _NOT_READY = 200, 503
_DATABASE = "database"
_OLLAMA = "ollama"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The services whose word goes into the document."""

    ratelimit: "ratelimit_pb2_grpc.RatelimitServiceAsyncStub"
    llm: "llm_pb2_grpc.LlmServiceAsyncStub"
    tasks: "tasks_pb2_grpc.TaskServiceAsyncStub"


@dataclass(slots=True, kw_only=True)
class _Answers:
    """The last answers; None from a service that did not answer the last time."""

    ratelimit: ratelimit_pb2.GetStatusResponse | None = None
    ratelimit_seconds: float = 0.0
    llm: llm_pb2.ListProvidersResponse | None = None
    tasks: tasks_pb2.GetSummaryResponse | None = None
    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    requests: int = 0
    seconds: float = 0.0
    average_seconds: float = field(default=0.0)


class Observation:
    """What is known of the mesh now."""

    def __init__(self, watched: Watched, health: Health, metrics: Metrics, clock: Clock) -> None:
        self._watched = watched
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._began = clock.monotonic()
        self._answers = _Answers()
        self.started = False
        health.on_change(self._hear)

    async def _hear(self, ready: bool) -> None:  # noqa: FBT001 - it is the state itself
        self.started = self.started or ready

    @property
    def ready(self) -> bool:
        """Started and not draining."""
        return self._health.ready

    async def watch(self) -> None:
        """Asks for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(_ASK_EVERY_SECONDS)

    async def refresh(self) -> None:
        """Asks every service once, all at a time."""
        answers, began = self._answers, self._clock.monotonic()

        async def ask_ratelimit() -> None:
            request = ratelimit_pb2.GetStatusRequest()
            answers.ratelimit = await _answer(self._watched.ratelimit.GetStatus(request, timeout=_ASK_TIMEOUT_SECONDS))
            answers.ratelimit_seconds = self._clock.monotonic() - began

        async def ask_llm() -> None:
            request = llm_pb2.ListProvidersRequest()
            answers.llm = await _answer(self._watched.llm.ListProviders(request, timeout=_ASK_TIMEOUT_SECONDS))

        async def ask_tasks() -> None:
            request = tasks_pb2.GetSummaryRequest()
            answers.tasks = await _answer(self._watched.tasks.GetSummary(request, timeout=_ASK_TIMEOUT_SECONDS))

        await asyncio.gather(ask_ratelimit(), ask_llm(), ask_tasks())
        answers.cpu_percent, answers.memory_percent = psutil.cpu_percent(), psutil.virtual_memory().percent
        requests, seconds = self._metrics.totals
        if requests > answers.requests:
            answers.average_seconds = (seconds - answers.seconds) / (requests - answers.requests)
        answers.requests, answers.seconds = requests, seconds

    def document(self) -> HealthDocument:
        """The document, from memory."""
        answers = self._answers
        providers = {provider.name: provider.available for provider in answers.llm.providers} if answers.llm else {}
        services = self._services(providers)
        well = all(state == "healthy" for name, state in services.items() if name != _OLLAMA)
        average_ms = round(answers.average_seconds * 1000)
        return {
            "status": "healthy" if well else "degraded",
            "timestamp": iso(self._clock.now()),
            "redis": "connected" if services["redis"] == "healthy" else "fallback",
            "ai_providers": providers,
            "uptime": round(self._clock.monotonic() - self._began, 3),
            "components": self._components(),
            "metrics": {
                "cpu_usage": f"{answers.cpu_percent:.0f}%",
                "memory_usage": f"{answers.memory_percent:.0f}%",
                "average_response_time": f"{average_ms}ms",
            },
            "services": services,
            # No response cache stands in front of the models yet, so no answer came out of one.
            "performance": {"response_time_ms": average_ms, "cache_hit_rate": 0.0},
        }

    def _services(self, providers: dict[str, bool]) -> dict[str, str]:
        answers = self._answers
        checks = {check.name: "healthy" if check.ok else "unhealthy" for check in self._health.checks}
        redis = "unknown" if answers.ratelimit is None else _state(well=answers.ratelimit.store_connected)
        return {
            "database": checks.pop(_DATABASE, "unknown"),
            "redis": redis,
            _OLLAMA: _state(well=providers[_OLLAMA]) if _OLLAMA in providers else "unknown",
            "ratelimit": _state(well=answers.ratelimit is not None),
            "llm": _state(well=answers.llm is not None),
            "tasks": _state(well=answers.tasks is not None),
            **checks,
        }

    def _components(self) -> Components:
        answers = self._answers
        connected = answers.ratelimit is not None and answers.ratelimit.store_connected
        summary = answers.tasks or tasks_pb2.GetSummaryResponse()
        rate = f"{summary.finished_per_second:g}/sec"
        active = sum(not worker.draining for worker in summary.workers)
        return {
            "redis": {
                "status": "up" if connected else "down",
                "latency": f"{round(answers.ratelimit_seconds * 1000)}ms",
            },
            "workers": {"active": active, "total": len(summary.workers)},
            "queues": {
                "tasks": {"length": sum(queue.queued for queue in summary.queues), "processing_rate": rate},
                # A result is stored by the statement that finishes its task, so none ever waits.
                "results": {"length": 0, "processing_rate": rate},
            },
        }

    def checks(self) -> dict[str, CheckDocument]:
        """The dependencies of this process alone."""
        return {
            check.name: {"ok": check.ok, "latency_ms": round(check.latency_seconds * 1000, 3)}
            for check in self._health.checks
        }


async def _answer(call: Awaitable[T]) -> T | None:
    try:
        return await call
    except MeshError:
        # Its silence is the news: the document says that the service does not answer.
        return None


def _state(*, well: bool) -> str:
    return "healthy" if well else "unhealthy"


def operations(observation: Observation) -> list[Operation]:
    """``/health`` and ``/api/health``, ``/livez``, ``/readyz`` and ``/startupz``."""

    async def health(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_json(send, observation.document())

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send_json(send, {"status": "alive"})

    async def ready(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        await _probe(send, scope, observation, well=observation.ready)

    async def startup(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        await _probe(send, scope, observation, well=observation.started)

    document, probe = TypeAdapter(HealthDocument), TypeAdapter(ProbeDocument)
    return [
        _operation("/health", health, "How the mesh is", document),
        _operation("/api/health", health, "How the mesh is", document),
        _operation("/livez", live, "Whether the process lives", probe),
        _operation("/readyz", ready, "Whether requests should be sent here", probe, failures=(_NOT_READY,)),
        _operation("/startupz", startup, "Whether the process has started", probe, failures=(_NOT_READY,)),
    ]


def _operation(
    path: str, handler: App, summary: str, answer: TypeAdapter[Any], *, failures: tuple[int, ...] = ()
) -> Operation:
    return Operation(
        path=path,
        method="GET",
        handler=handler,
        tag="operations",
        name=path.strip("/").replace("/", "_"),
        summary=summary,
        answer=answer,
        failures=failures,
    )


async def _probe(send: Send, scope: Scope, observation: Observation, *, well: bool) -> None:
    answer: dict[str, Any] = {"status": "ready" if well else "not ready"}
    if "verbose" in parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True):
        answer["checks"] = observation.checks()
    await send_json(send, answer, _OK if well else _NOT_READY)
