"""Events of the bus → the frames that sockets are sent. Pure; the shapes are those of the AI OS API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson
from mesh.agents.v1 import events_pb2

from chassis.messaging.message import Message
from services.gateway.views import iso, percentage


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame for the sockets of a user.

    Attributes:
        owner: the user's id; empty: everybody's.
        subject: what it is about; frames of one subject are in order.
        sequence: its place among them, from 1 without gaps; 0 where there is no order.
        text: the JSON document.
        passing: stands for a moment only, so that a slow socket may miss it.
    """

    text: str
    owner: str = ""
    subject: str = ""
    sequence: int = 0
    passing: bool = False


def frame_of(message: Message) -> Frame | None:
    """The frame for an event, None where sockets are told nothing. Raises DecodeError for a body that is none."""
    build = _BUILDERS.get(message.type)
    if build is None:
        return None
    owner, kind, data = build(message.body)
    return Frame(text=_text(kind, data), owner=owner, subject=message.subject, sequence=message.sequence)


def metrics_frame(*, cpu_percent: float, memory_percent: float, health_score: float, now: datetime) -> Frame:
    """How this machine is. `health_score` goes from 0 to 1."""
    data = {
        "cpu_usage": cpu_percent,
        "memory_usage": memory_percent,
        "system_health_score": round(health_score, 2),
        "timestamp": iso(now),
    }
    return Frame(text=_text("metrics_update", data), passing=True)


Built = tuple[str, str, dict[str, Any]]


def _text(kind: str, data: Mapping[str, Any]) -> str:
    return orjson.dumps({"type": kind, "data": data}).decode()


def _execution_started(body: bytes) -> Built:
    event = events_pb2.ExecutionStarted.FromString(body)
    data = {"execution_id": event.execution_id, "agent_count": event.agent_count, "parallel": event.parallel}
    return event.owner_id, "execution_started", data


def _agent_completed(body: bytes) -> Built:
    event = events_pb2.RunFinished.FromString(body)
    data = {
        "execution_id": event.execution_id,
        "agent_id": event.agent_id,
        "agent_name": event.agent_name,
        "status": event.status,
        "duration_ms": event.duration_ms,
    }
    return event.owner_id, "agent_completed", data


def _execution_completed(body: bytes) -> Built:
    event = events_pb2.ExecutionFinished.FromString(body)
    data = {
        "execution_id": event.execution_id,
        "total_agents": event.total_agents,
        "successful": event.successful,
        "failed": event.failed,
        "success_rate": percentage(event.successful, event.total_agents),
    }
    return event.owner_id, "execution_completed", data


def _agent_created(body: bytes) -> Built:
    event = events_pb2.AgentCreated.FromString(body)
    return "", "agent_created", {"agent_id": event.agent_id, "name": event.name}


_BUILDERS: Mapping[str, Callable[[bytes], Built]] = MappingProxyType(
    {
        "mesh.agents.v1.ExecutionStarted": _execution_started,
        "mesh.agents.v1.RunFinished": _agent_completed,
        "mesh.agents.v1.ExecutionFinished": _execution_completed,
        "mesh.agents.v1.AgentCreated": _agent_created,
    }
)
