from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from mesh.llm.v1 import llm_pb2
from mesh.ratelimit.v1 import ratelimit_pb2
from mesh.tasks.v1 import tasks_pb2
from prometheus_client import CollectorRegistry
from pydantic import TypeAdapter

from chassis.errors import Unavailable
from chassis.health import Health
from services.gateway.apis.health import Observation, Watched, operations
from services.gateway.apis.health_shapes import HealthDocument
from services.gateway.edge.metrics import Metrics
from tests.support.clock import FakeClock


def answering(answer: Any) -> Callable[..., Awaitable[Any]]:
    """A method of a stub: answers, or raises what it is given."""

    async def call(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


class World:
    def __init__(self, **answers: Any) -> None:
        self.clock = FakeClock()
        self.health = Health(self.clock)
        self.metrics = Metrics(CollectorRegistry())
        defaults: dict[str, Any] = {
            "ratelimit": ratelimit_pb2.GetStatusResponse(store_connected=True),
            "llm": llm_pb2.ListProvidersResponse(
                providers=[
                    llm_pb2.Provider(name="echo", available=True),
                    llm_pb2.Provider(name="ollama", available=False),
                ]
            ),
            "tasks": tasks_pb2.GetSummaryResponse(
                queues=[tasks_pb2.QueueSummary(group="a", queued=3), tasks_pb2.QueueSummary(group="b", queued=4)],
                workers=[tasks_pb2.WorkerSummary(name="one"), tasks_pb2.WorkerSummary(name="two", draining=True)],
                finished_per_second=12.5,
            ),
        }
        said = defaults | answers
        watched: Any = Watched(
            ratelimit=SimpleNamespace(GetStatus=answering(said["ratelimit"])),  # type: ignore[arg-type]  # of a stub
            llm=SimpleNamespace(ListProviders=answering(said["llm"])),  # type: ignore[arg-type]  # the one method
            tasks=SimpleNamespace(GetSummary=answering(said["tasks"])),  # type: ignore[arg-type]  # that is asked
        )
        self.health.add("database", answering(None))
        self.observation = Observation(watched, self.health, self.metrics, self.clock)

    def database_answers(self) -> None:
        check = self.health._checks["database"]
        self.health._checks["database"] = type(check)(name="database", ok=True, latency_seconds=0.002, error="")

    async def get(self, path: str, query: bytes = b"") -> tuple[int, Any]:
        """Status and body of a route."""
        (handler,) = [one.handler for one in operations(self.observation) if one.path == path]
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await handler({"query_string": query}, None, send)  # type: ignore[arg-type]  # nothing is read
        return sent[0]["status"], orjson.loads(sent[1]["body"])


async def test_a_mesh_that_is_well():
    """Every field of every dialect, from what the services said."""
    world = World()
    world.database_answers()
    world.metrics.observe("/x", "GET", 200, 0.1)
    world.clock.advance(7)
    await world.observation.refresh()
    status, body = await world.get("/health")
    TypeAdapter(HealthDocument).validate_python(body)
    assert (status, body["status"], body["redis"], body["uptime"]) == (200, "healthy", "connected", 7.0)
    assert body["ai_providers"] == {"echo": True, "ollama": False}
    assert body["components"]["workers"] == {"active": 1, "total": 2}
    assert body["components"]["queues"]["tasks"] == {"length": 7, "processing_rate": "12.5/sec"}
    assert body["services"]["ollama"] == "unhealthy"
    assert body["metrics"]["average_response_time"] == "100ms"
    assert (await world.get("/api/health"))[1]["services"] == body["services"]


@pytest.mark.parametrize("service", ["ratelimit", "llm", "tasks"])
async def test_a_service_that_does_not_answer_degrades_the_mesh(service: str):
    """Health itself answers on, and says who is silent."""
    world = World(**{service: Unavailable()})
    world.database_answers()
    await world.observation.refresh()
    status, body = await world.get("/health")
    assert (status, body["status"], body["services"][service]) == (200, "degraded", "unhealthy")
    TypeAdapter(HealthDocument).validate_python(body)


async def test_redis_away_is_a_fallback():
    """The limiter says that its store is gone."""
    world = World(ratelimit=ratelimit_pb2.GetStatusResponse(store_connected=False))
    world.database_answers()
    await world.observation.refresh()
    _, body = await world.get("/health")
    assert (body["status"], body["redis"], body["components"]["redis"]["status"]) == ("degraded", "fallback", "down")


async def test_before_anything_was_asked():
    """The document is whole from the first moment."""
    TypeAdapter(HealthDocument).validate_python((await World().get("/health"))[1])


async def test_probes():
    """Alive at once; ready from the start to the drain; started for good; details on request."""
    world = World()
    assert (await world.get("/livez"))[0] == 200
    assert [(await world.get(path))[0] for path in ("/readyz", "/startupz")] == [503, 503]
    await world.health.set_ready(True)
    assert [(await world.get(path))[0] for path in ("/readyz", "/startupz")] == [200, 200]
    await world.health.set_ready(False)
    assert [(await world.get(path))[0] for path in ("/readyz", "/startupz")] == [503, 200]
    assert "checks" not in (await world.get("/readyz"))[1]
    assert (await world.get("/readyz", b"verbose"))[1]["checks"]["database"]["ok"] is False
