"""Messages of the gRPC face."""

from mesh.agents.v1 import agents_pb2

from services.agents.model.agent import AgentChange, Measured, Summary
from services.agents.model.execution import Execution, Run
from services.agents.model.order import Order, make_order
from services.agents.wire.times import stamp


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
        created_at=stamp(agent.created_at),
        last_run_at=stamp(figures.last_run_at),
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
        started_at=stamp(execution.started_at),
        finished_at=stamp(execution.finished_at),
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
        started_at=stamp(run.started_at),
        finished_at=stamp(run.finished_at),
        output=run.output,
        error=run.error,
        task_id=run.task_id,
        model=run.model,
        tokens=run.tokens,
        duration_ms=run.duration_ms if run.started_at and run.finished_at else None,
    )


def to_summary(summary: Summary) -> agents_pb2.GetSummaryResponse:
    """Figures as callers see them."""
    return agents_pb2.GetSummaryResponse(
        agents=summary.agents,
        active_agents=summary.active_agents,
        runs=summary.runs,
        successful_runs=summary.successful_runs,
        last_run_at=stamp(summary.last_run_at),
    )
