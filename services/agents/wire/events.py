"""Events out to the bus, and news of tasks in from it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from google.protobuf.message import Message as ProtoMessage
from mesh.agents.v1 import events_pb2
from mesh.tasks.v1 import events_pb2 as task_events_pb2

from chassis.messaging.message import EVENTS, Message
from services.agents.model.agent import Agent
from services.agents.model.execution import Event, EventType, News, RunStatus, answer_of, failed_as

SOURCE = "agents"
AGENT_RUN = "agent.run"

# Types of task events that change a run. The rest (queued, progress, retrying) leaves it where it is.
_STATUS: Mapping[str, RunStatus] = {
    "started": RunStatus.RUNNING,
    "succeeded": RunStatus.SUCCESS,
    "failed": RunStatus.FAILED,
    "dead": RunStatus.FAILED,
    "expired": RunStatus.TIMEOUT,
    "cancelled": RunStatus.CANCELLED,
}
NEWS_PATTERNS = tuple(f"tasks.task.{type_}.{AGENT_RUN}" for type_ in _STATUS)


def announce_agent(agent: Agent) -> Message:
    """The event that tells of a new agent."""
    body = events_pb2.AgentCreated(agent_id=agent.id, name=agent.name)
    return _message("agent.created", body, subject=agent.id, sequence=1, time=agent.created_at, traceparent="")


def announce(event: Event) -> Message:
    """The message that tells of an event; its id is the same whenever it is made again."""
    execution = event.execution
    return _message(
        event.type.value,
        _body(event),
        subject=execution.id,
        sequence=event.sequence,
        time=event.at,
        traceparent=execution.traceparent,
    )


def to_news(changed: task_events_pb2.TaskChanged) -> News | None:
    """What a task event says about a run; None when it is not about one."""
    labels = json.loads(changed.labels) if changed.kind == AGENT_RUN and changed.labels else {}
    status = _STATUS.get(changed.type)
    if status is None or not isinstance(labels, dict) or not {"execution_id", "run_id"} <= labels.keys():
        return None
    error = (json.loads(changed.data) if changed.data else {}).get("error") or {}
    return News(
        execution_id=str(labels["execution_id"]),
        run_id=str(labels["run_id"]),
        task_id=changed.task_id,
        owner_id=changed.owner_id,
        status=failed_as(error.get("code", "")) if status is RunStatus.FAILED else status,
        at=changed.at.ToDatetime(UTC),
        answer=answer_of(changed.result) if status is RunStatus.SUCCESS else None,
        error=error.get("message", ""),
    )


def _body(event: Event) -> ProtoMessage:
    execution, run = event.execution, event.run
    owner_id = execution.order.owner_id
    if event.type is EventType.STARTED:
        return events_pb2.ExecutionStarted(
            execution_id=execution.id,
            owner_id=owner_id,
            agent_count=len(execution.runs),
            parallel=execution.order.parallel,
        )
    if run is not None:
        return events_pb2.RunFinished(
            execution_id=execution.id,
            owner_id=owner_id,
            agent_id=run.agent_id,
            agent_name=run.agent_name,
            status=run.status.value,
            duration_ms=run.duration_ms,
        )
    return events_pb2.ExecutionFinished(
        execution_id=execution.id,
        owner_id=owner_id,
        total_agents=len(execution.runs),
        successful=execution.successful,
        failed=len(execution.runs) - execution.successful,
    )


def _message(
    noun_verb: str, body: ProtoMessage, *, subject: str, sequence: int, time: datetime, traceparent: str
) -> Message:
    return Message(
        exchange=EVENTS,
        routing_key=f"{SOURCE}.{noun_verb}",
        type=body.DESCRIPTOR.full_name,
        body=body.SerializeToString(),
        id=f"{subject}:{sequence}",
        time=time,
        source=SOURCE,
        subject=subject,
        sequence=sequence,
        traceparent=traceparent,
    )
