"""Events of the bus as the frames that the AI OS API's document prints."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from mesh.agents.v1 import events_pb2

from chassis.messaging.message import Message
from services.gateway.live.executions import Executions
from services.gateway.live.frames import Frame, metrics_frame
from tests.unit.gateway.live.events import told

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)


def frame_of(message: Message) -> Frame | None:
    nobody: Any = None
    return next(iter(Executions(nobody).frames_of(message, lambda _owner: True)), None)


def test_an_execution_that_started():
    """For its owner, first of its subject."""
    event = events_pb2.ExecutionStarted(execution_id="e1", owner_id="u1", agent_count=5, parallel=True)
    frame = frame_of(told(event, "e1", 1))
    assert frame is not None
    assert (frame.owner, frame.subject, frame.sequence, frame.passing) == ("u1", "e1", 1, False)
    assert json.loads(frame.text) == {
        "type": "execution_started",
        "data": {"execution_id": "e1", "agent_count": 5, "parallel": True},
    }


def test_an_agent_that_completed():
    """With its name and how long it took."""
    event = events_pb2.RunFinished(
        execution_id="e1", owner_id="u1", agent_id="a1", agent_name="CostOptBot", status="success", duration_ms=2500
    )
    frame = frame_of(told(event, "e1", 2))
    assert frame is not None
    assert json.loads(frame.text) == {
        "type": "agent_completed",
        "data": {
            "execution_id": "e1",
            "agent_id": "a1",
            "agent_name": "CostOptBot",
            "status": "success",
            "duration_ms": 2500,
        },
    }


def test_an_execution_that_completed():
    """Its rate is in percent."""
    event = events_pb2.ExecutionFinished(execution_id="e1", owner_id="u1", total_agents=5, successful=4, failed=1)
    frame = frame_of(told(event, "e1", 7))
    assert frame is not None
    assert json.loads(frame.text)["data"] == {
        "execution_id": "e1",
        "total_agents": 5,
        "successful": 4,
        "failed": 1,
        "success_rate": 80.0,
    }


def test_an_agent_that_was_created_is_everybodys_news():
    """It has no owner."""
    frame = frame_of(told(events_pb2.AgentCreated(agent_id="a1", name="CustomBot"), "a1", 1))
    assert frame is not None
    assert frame.owner == ""
    assert json.loads(frame.text) == {"type": "agent_created", "data": {"agent_id": "a1", "name": "CustomBot"}}


def test_figures_of_the_machine_may_be_missed():
    """The next come soon."""
    frame = metrics_frame(cpu_percent=35.2, memory_percent=68.1, health_score=0.934, now=NOW)
    assert frame.passing
    assert json.loads(frame.text) == {
        "type": "metrics_update",
        "data": {
            "cpu_usage": 35.2,
            "memory_usage": 68.1,
            "system_health_score": 0.93,
            "timestamp": "2024-01-15T12:00:00Z",
        },
    }


def test_other_events_are_nobodys():
    """A type that sockets are told nothing of."""
    assert frame_of(told(events_pb2.AgentCreated(), "a1", 1, kind="mesh.agents.v1.Unheard")) is None


def test_a_body_that_is_none_is_told_apart():
    """It is parked, not passed over."""
    with pytest.raises(DecodeError):
        frame_of(told(b"\xff\xff", "e1", 1, kind="mesh.agents.v1.ExecutionStarted"))
