"""The faces that nobody calls: the handler, the listener and the rounds."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from mesh.tasks.v1 import events_pb2
from prometheus_client import REGISTRY

from chassis.errors import Invalid, MeshError, Unavailable
from services.agents.operations.registry import Registry
from services.agents.worker.answering import Answering
from services.agents.worker.developing import Developing
from services.agents.worker.news import Listener
from services.agents.worker.rounds import be_present
from tests.support.clock import FakeClock
from tests.unit.agents.fakes import FakeAgents, FakeModels, FakeRunners, agent
from worker.handler import Assignment, Reject, Retry


def _assignment(payload: Any) -> Assignment:
    async def unheard(fraction: float, message: str) -> None:
        del fraction, message

    return Assignment(
        task_id="task_1", attempt=2, kind="agent.run", payload=payload, owner_id="u", timeout_seconds=9, report=unheard
    )


def _answering(models: FakeModels) -> Answering:
    agents = FakeAgents()
    agents.agents["a"] = agent("a")
    return Answering(Registry(agents, FakeRunners(), models, clock=FakeClock(), new_ids=lambda count: ["id"] * count))


async def test_a_run_is_asked_under_its_own_key():
    """The key names the run and no attempt; a task without a run is its own run."""
    models = FakeModels()
    answering = _answering(models)
    result = await answering.handle(_assignment({"agent_id": "a", "run_id": "r", "input": "hi"}))
    assert result == {"output": "hi", "model": "fake", "tokens": 7}
    await answering.handle(_assignment({"agent_id": "a"}))
    assert [key for _, _, key in models.asked] == ["r:answer", "task_1:answer"]


@pytest.mark.parametrize("payload", [None, [], {}, {"agent_id": 1}, {"agent_id": "a", "input": 1}])
async def test_a_payload_without_an_agent_is_rejected(payload: Any):
    """For good."""
    with pytest.raises(Reject):
        await _answering(FakeModels()).handle(_assignment(payload))


def _task(kind: str, payload: Any) -> Assignment:
    return replace(_assignment(payload), kind=kind)


def _developing(models: FakeModels, **capabilities: tuple[str, ...]) -> Developing:
    agents = FakeAgents()
    for name, able in capabilities.items():
        agents.agents[name] = replace(agent(name), capabilities=able)
    return Developing(Registry(agents, FakeRunners(), models, clock=FakeClock(), new_ids=lambda count: ["id"] * count))


@pytest.mark.parametrize(
    ("kind", "chosen"), [("feature", "coder"), ("bug", "coder"), ("docs", "writer"), ("test", "coordinator")]
)
async def test_a_development_task_goes_to_an_agent_that_can_do_it(kind: str, chosen: str):
    """Whoever hands out tasks takes what nobody else can do. The key names no attempt."""
    models = FakeModels()
    developing = _developing(
        models, coordinator=("task_distribution",), writer=("documentation",), coder=("chat", "development")
    )
    result = await developing.handle(_task(kind, {"title": "Sort it", "description": "", "estimated_hours": 4.0}))
    assert (result["agent_id"], result["model"]) == (chosen, "fake")
    assert [key for _, _, key in models.asked] == ["task_1:answer"]


async def test_a_development_task_waits_for_an_agent():
    """One may be activated any time."""
    with pytest.raises(Retry):
        await _developing(FakeModels(), stranger=("chat",)).handle(_task("docs", {"title": "Explain"}))


@pytest.mark.parametrize("payload", [None, {}, {"title": ""}, {"title": 1}, {"title": "x", "description": 2}])
async def test_a_development_task_without_a_title_is_rejected(payload: Any):
    """For good."""
    with pytest.raises(Reject):
        await _developing(FakeModels(), coder=("coding",)).handle(_task("bug", payload))


class _Delivery:
    def __init__(self, body: bytes) -> None:
        self.message = type("Message", (), {"body": body, "id": "m"})
        self.acked = False

    async def ack(self) -> None:
        self.acked = True


class _Engine:
    def __init__(self, failure: Exception | None = None) -> None:
        self.heard: list[Any] = []
        self._failure = failure

    async def hear(self, news: Any) -> None:
        self.heard.append(news)
        if self._failure is not None:
            raise self._failure


def _event(*kinds: str) -> bytes:
    labels = [json.dumps({"execution_id": "e", "run_id": f"r{number}"}).encode() for number in range(len(kinds))]
    changes = [
        events_pb2.TaskChanged(kind=kind, type="started", labels=mine) for kind, mine in zip(kinds, labels, strict=True)
    ]
    return events_pb2.TasksChanged(changes=changes).SerializeToString()


@pytest.mark.parametrize("failure", [None, Unavailable()])
async def test_news_is_heard_and_acknowledged(failure: MeshError | None):
    """Also when it cannot be applied now: the repair does it then. Other kinds are none of our business."""
    engine = _Engine(failure)
    listener = Listener(engine, at_once=2)  # type: ignore[arg-type]  # as much of an engine as it uses
    for kinds in (["agent.run"] * 3, ["automation"]):
        delivery = _Delivery(_event(*kinds))
        await listener.handle(delivery)  # type: ignore[arg-type]  # as much of a delivery as it uses
        assert delivery.acked
    assert [news.run_id for news in engine.heard] == ["r0", "r1", "r2"]


async def test_a_bad_event_does_not_hold_up_the_others_of_its_message():
    """Neither one that cannot be read nor one at which we fail; both are counted, and the message is done with."""
    engine = _Engine(AttributeError("a fault of ours"))
    changed = events_pb2.TasksChanged.FromString(_event(*["agent.run"] * 6))
    for one, labels, data in (
        (changed.changes[0], b"{nonsense", b""),
        (changed.changes[1], b"\xff", b""),
        (changed.changes[2], b"", b"[1]"),
        (changed.changes[3], b"", b'{"error":"none"}'),
    ):
        one.labels, one.data = labels or one.labels, data
    delivery, before = _Delivery(changed.SerializeToString()), _left("FAULT")
    await Listener(engine, at_once=1).handle(delivery)  # type: ignore[arg-type]  # as above
    assert [news.run_id for news in engine.heard] == ["r4", "r5"]
    assert (delivery.acked, _left("FAULT") - before) == (True, 6)


def _left(reason: str) -> float:
    return REGISTRY.get_sample_value("mesh_task_news_left_total", {"reason": reason}) or 0


async def test_what_is_no_message_is_invalid():
    """Which parks it."""
    with pytest.raises(Invalid):
        await Listener(_Engine(), 1).handle(_Delivery(b"\xff\xff"))  # type: ignore[arg-type]  # as above


async def test_a_runner_is_present_while_it_serves():
    """Its port is known until it ends."""
    runners = FakeRunners()
    presence = asyncio.ensure_future(be_present(runners, "i", 4711, lambda: True))
    await asyncio.sleep(0)
    assert await runners.live_port() == 4711
    presence.cancel()
    await asyncio.wait([presence])
    assert await runners.live_port() == 0
