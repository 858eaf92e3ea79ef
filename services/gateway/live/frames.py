"""Events of the bus → the frames that sockets are sent. Pure; the shapes are those of the AI OS API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson
from mesh.agents.v1 import agents_pb2, events_pb2

from chassis.messaging.message import Message
from services.gateway.views import duration_ms, iso, percentage


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame for the sockets of a user.

    Attributes:
        owner: the user's id; empty: everybody's.
        subject: what it is about; frames of one subject are in order.
        sequence: its place among them, from 1 without gaps; 0 where there is no order.
        text: the JSON document.
        key: tells the frames of one subject apart; the same when the same is told again.
        last: nothing follows on this subject.
        passing: stands for a moment only, so that a slow socket may miss it.
    """

    text: str
    key: str = ""
    last: bool = False
    owner: str = ""
    subject: str = ""
    sequence: int = 0
    passing: bool = False


def frame_of(message: Message) -> Frame | None:
    """The frame for an event, None where sockets are told nothing. Raises DecodeError for a body that is none."""
    build = _BUILDERS.get(message.type)
    if build is None:
        return None
    return _frame(build(message.body), message.subject, message.sequence)


def history_of(execution: agents_pb2.Execution) -> list[Frame]:
    """Every frame that events have told or should have told of an execution so far, in order."""
    ended = [run for run in execution.runs if run.status not in _UNDER_WAY]
    ended.sort(key=lambda run: run.finished_at.ToNanoseconds())
    built = [_started(execution), *(_completed(execution, run) for run in ended)]
    if execution.HasField("finished_at"):
        built.append(_all_completed(execution, [run.status for run in ended]))
    return [_frame(each, execution.id, sequence) for sequence, each in enumerate(built, start=1)]


def _frame(built: "Built", subject: str, sequence: int) -> Frame:
    owner, kind, data = built
    key = f"{kind} {data.get('agent_id', '')}"
    return Frame(
        text=_text(kind, data), owner=owner, subject=subject, sequence=sequence, key=key, last=kind == _COMPLETED
    )


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
_COMPLETED = "execution_completed"
_UNDER_WAY = frozenset({"pending", "running"})


def _started(execution: agents_pb2.Execution) -> Built:
    event = events_pb2.ExecutionStarted(
        execution_id=execution.id,
        owner_id=execution.owner_id,
        agent_count=len(execution.runs),
        parallel=execution.parallel,
    )
    return _execution_started(event.SerializeToString())


def _completed(execution: agents_pb2.Execution, run: agents_pb2.Run) -> Built:
    event = events_pb2.RunFinished(
        execution_id=execution.id,
        owner_id=execution.owner_id,
        agent_id=run.agent_id,
        agent_name=run.agent_name,
        status=run.status,
        duration_ms=duration_ms(run, "started_at", "finished_at") or 0,
    )
    return _agent_completed(event.SerializeToString())


def _all_completed(execution: agents_pb2.Execution, statuses: list[str]) -> Built:
    successful = statuses.count("success")
    event = events_pb2.ExecutionFinished(
        execution_id=execution.id,
        owner_id=execution.owner_id,
        total_agents=len(execution.runs),
        successful=successful,
        failed=len(statuses) - successful,
    )
    return _execution_completed(event.SerializeToString())


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
    return event.owner_id, _COMPLETED, data


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
