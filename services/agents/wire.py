"""Model ↔ proto, pure: messages of the gRPC face, events out, news of tasks in."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from google.protobuf import timestamp_pb2
from google.protobuf.message import Message as ProtoMessage
from mesh.agents.v1 import agents_pb2, events_pb2
from mesh.tasks.v1 import events_pb2 as task_events_pb2

from chassis.messaging.message import EVENTS, Message
from services.agents.model.agent import Agent, AgentChange, Measured, Summary
from services.agents.model.execution import (
    Event,
    EventType,
    Execution,
    News,
    Run,
    RunStatus,
    answer_of,
    failed_as,
)
from services.agents.model.order import Order, make_order

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


def to_agent(measured: Measured, port: int) -> agents_pb2.Agent:
    """An agent as callers see it; `port` of a live runner, 0 for none."""
    agent, figures = measured.agent, measured.figures
    return agents_pb2.Agent(
        id=agent.id,
        name=agent.name,
        role=agent.role,
        description=agent.description,
        status=agent.status.value,
        capabilities=agent.capabilities,
        model=agent.model,
        created_at=_stamp(agent.created_at),
        last_run_at=_stamp(figures.last_run_at),
        runs=figures.runs,
        successful_runs=figures.successful_runs,
        served=port > 0,
        port=port,
    )


def from_update(request: agents_pb2.UpdateAgentRequest) -> AgentChange:
    """The fields that are present."""

    def text(field: str) -> str | None:
        return getattr(request, field) if request.HasField(field) else None  # type: ignore[arg-type]  # names below

    return AgentChange(
        name=text("name"),
        role=text("role"),
        description=text("description"),
        status=text("status"),
        model=text("model"),
        capabilities=tuple(request.capabilities.capabilities) if request.HasField("capabilities") else None,
    )


def from_execute(request: agents_pb2.ExecuteRequest) -> Order:
    """The order, checked. Raises Invalid."""
    return make_order(
        owner_id=request.owner_id,
        agent_ids=list(request.agent_ids),
        parallel=request.parallel,
        timeout_seconds=request.timeout_seconds,
        input_text=request.input,
        idempotency_key=request.idempotency_key,
    )


def to_execution(execution: Execution) -> agents_pb2.Execution:
    """An execution as callers see it."""
    return agents_pb2.Execution(
        id=execution.id,
        owner_id=execution.order.owner_id,
        status=execution.status.value,
        parallel=execution.order.parallel,
        timeout_seconds=execution.order.timeout_seconds,
        started_at=_stamp(execution.started_at),
        finished_at=_stamp(execution.finished_at),
        runs=[to_run(run) for run in execution.runs],
        estimated_seconds=execution.estimated_seconds,
    )


def to_run(run: Run) -> agents_pb2.Run:
    """A run as callers see it."""
    return agents_pb2.Run(
        id=run.id,
        execution_id=run.execution_id,
        agent_id=run.agent_id,
        agent_name=run.agent_name,
        status=run.status.value,
        started_at=_stamp(run.started_at),
        finished_at=_stamp(run.finished_at),
        output=run.output,
        error=run.error,
        task_id=run.task_id,
        model=run.model,
        tokens=run.tokens,
    )


def to_summary(summary: Summary) -> agents_pb2.GetSummaryResponse:
    """Figures as callers see them."""
    return agents_pb2.GetSummaryResponse(
        agents=summary.agents,
        active_agents=summary.active_agents,
        runs=summary.runs,
        successful_runs=summary.successful_runs,
        last_run_at=_stamp(summary.last_run_at),
    )


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
    successful = sum(run.status is RunStatus.SUCCESS for run in execution.runs)
    return events_pb2.ExecutionFinished(
        execution_id=execution.id,
        owner_id=owner_id,
        total_agents=len(execution.runs),
        successful=successful,
        failed=len(execution.runs) - successful,
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


def _stamp(value: datetime | None) -> timestamp_pb2.Timestamp | None:
    if value is None:
        return None
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(value)
    return stamp
