"""``/api/execute`` and ``/api/executions``: run agents, and the log of their runs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from mesh.agents.v1 import agents_pb2, agents_pb2_grpc
from pydantic import BaseModel, Field, StringConstraints

from chassis.errors import Invalid, NotFound
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, IDEMPOTENCY_PARAMETER, idempotency_key
from services.gateway.apis.ids import is_agent_id, is_uuid
from services.gateway.apis.shapes import WHOLE, Body
from services.gateway.edge.context import require_scope
from services.gateway.identity.model import Principal
from services.gateway.views import Instant

RunStatus = Literal["pending", "running", "success", "failed", "timeout", "cancelled"]
AgentId = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Execute(Body):
    """Which agents are to run, and how. All active ones when none is named."""

    agent_ids: Annotated[list[AgentId], Field(max_length=1000)] | None = None
    parallel: bool = Field(default=True, description="All at once, or one after the other.")
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400), WHOLE] = Field(default=300, description="For each agent.")
    input: Annotated[str, StringConstraints(max_length=100_000)] | None = Field(
        default=None, description="What they are asked to do; without it their role and description say it."
    )


class Started(BaseModel):
    """They are accepted and will run. `estimated_duration` is seconds, 0 while nothing is known of these agents."""

    execution_id: str
    status: Literal["started"]
    started_at: Instant
    agent_count: int
    estimated_duration: int


class RunView(BaseModel):
    """One agent's part in an execution."""

    id: str
    execution_id: str
    agent_id: str
    agent_name: str
    status: RunStatus
    start_time: Instant | None
    end_time: Instant | None
    duration_ms: int | None
    error_message: str | None


class RunDetail(RunView):
    """With what the agent answered, by which model, and its task (null before its turn)."""

    output: str
    model: str
    tokens: int
    task_id: str | None


class ExecutionView(BaseModel):
    """An execution with all its runs."""

    execution_id: str
    status: Literal["started", "completed", "cancelled"]
    parallel: bool
    timeout_seconds: int
    started_at: Instant
    finished_at: Instant | None
    agent_count: int
    successful: int
    failed: int
    runs: list[RunDetail]


class Executions:
    """The routes."""

    def __init__(self, agents: "agents_pb2_grpc.AgentServiceAsyncStub") -> None:
        self._agents = agents

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api", tags=["aios"], route_class=StrictRoute)
        add = router.add_api_route
        add(
            "/execute",
            self.execute,
            methods=["POST"],
            operation_id="aios_execute",
            summary="Run agents",
            openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
        )
        add("/executions", self.list_runs, operation_id="aios_list_executions", summary="The log of runs, newest first")
        add("/executions/{execution_id}", self.get, operation_id="aios_get_execution", summary="Look at an execution")
        add(
            "/executions/{execution_id}",
            self.cancel,
            methods=["DELETE"],
            status_code=204,
            operation_id="aios_cancel_execution",
            summary="Cancel an execution; runs under way are asked to stop",
        )
        return router

    async def execute(self, request: Request, body: Execute | None = None) -> Started:
        principal = require_scope(request.scope, "agents")
        wanted = body or Execute()
        answer = await self._agents.Execute(
            agents_pb2.ExecuteRequest(
                agent_ids=_all_known(wanted.agent_ids or []),
                parallel=wanted.parallel,
                timeout_seconds=wanted.timeout_seconds,
                owner_id=principal.user_id,
                input=wanted.input or "",
                idempotency_key=idempotency_key(request.headers.get(IDEMPOTENCY_KEY.decode(), "")),
            )
        )
        execution = answer.execution
        return Started(
            execution_id=execution.id,
            status="started",
            started_at=views.required_instant(execution, "started_at"),
            agent_count=len(execution.runs),
            estimated_duration=execution.estimated_seconds,
        )

    async def list_runs(
        self,
        request: Request,
        skip: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        agent_id: Annotated[str | None, Query(max_length=64)] = None,
        status: RunStatus | None = None,
    ) -> list[RunView]:
        owner = _owner(require_scope(request.scope, "agents"))
        if agent_id and not is_agent_id(agent_id):
            return []
        query = agents_pb2.ListRunsRequest(
            skip=skip, limit=limit, agent_id=agent_id or "", status=status or "", owner_id=owner
        )
        answer = await self._agents.ListRuns(query)
        return [RunView(**_shown(run)) for run in answer.runs]

    async def get(self, request: Request, execution_id: str) -> ExecutionView:
        owner = _owner(require_scope(request.scope, "agents"))
        query = agents_pb2.GetExecutionRequest(id=_known(execution_id), owner_id=owner)
        answer = await self._agents.GetExecution(query)
        return _execution(answer.execution)

    async def cancel(self, request: Request, execution_id: str) -> None:
        owner = _owner(require_scope(request.scope, "agents"))
        query = agents_pb2.CancelExecutionRequest(id=_known(execution_id), owner_id=owner)
        await self._agents.CancelExecution(query)


def _owner(principal: Principal) -> str:
    """Whose runs may be seen: an administrator sees everybody's."""
    return "" if principal.is_admin else principal.user_id


def _known(execution_id: str) -> str:
    """An id that could be an execution's; anything else is none, without asking."""
    if not is_uuid(execution_id):
        raise NotFound("Execution not found", code="EXECUTION_NOT_FOUND")
    return execution_id


def _all_known(agent_ids: list[str]) -> list[str]:
    """Ids that could be agents'. Raises Invalid for one that is none."""
    for agent_id in agent_ids:
        if not is_agent_id(agent_id):
            raise Invalid("Unknown agent", code="AGENT_NOT_FOUND", details={"field": "agent_ids"})
    return agent_ids


def _shown(run: agents_pb2.Run) -> dict[str, str | int | None]:
    return {
        "id": run.id,
        "execution_id": run.execution_id,
        "agent_id": run.agent_id,
        "agent_name": run.agent_name,
        "status": run.status,
        "start_time": views.instant(run, "started_at"),
        "end_time": views.instant(run, "finished_at"),
        "duration_ms": run.duration_ms if run.HasField("duration_ms") else None,
        "error_message": run.error or None,
    }


def _detail(run: agents_pb2.Run) -> dict[str, str | int | None]:
    return _shown(run) | {
        "output": run.output,
        "model": run.model,
        "tokens": run.tokens,
        "task_id": run.task_id or None,
    }


def _execution(execution: agents_pb2.Execution) -> ExecutionView:
    ended = [run.status for run in execution.runs if run.status not in {"pending", "running"}]
    successful = ended.count("success")
    return ExecutionView.model_validate(
        {
            "execution_id": execution.id,
            "status": execution.status,
            "parallel": execution.parallel,
            "timeout_seconds": execution.timeout_seconds,
            "started_at": views.required_instant(execution, "started_at"),
            "finished_at": views.instant(execution, "finished_at"),
            "agent_count": len(execution.runs),
            "successful": successful,
            "failed": len(ended) - successful,
            "runs": [_detail(run) for run in execution.runs],
        }
    )
