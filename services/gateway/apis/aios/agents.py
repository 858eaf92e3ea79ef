"""``/api/agents``: the agents as their owners see them, with figures from real runs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from mesh.agents.v1 import agents_pb2, agents_pb2_grpc
from pydantic import BaseModel, Field, StringConstraints

from chassis.errors import NotFound
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.ids import is_agent_id
from services.gateway.apis.shapes import Body
from services.gateway.edge.context import require_admin, require_scope
from services.gateway.views import Instant

AgentStatus = Literal["active", "inactive"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]
Role = Annotated[str, StringConstraints(max_length=200)]
Description = Annotated[str, StringConstraints(max_length=10_000)]
ModelName = Annotated[str, StringConstraints(max_length=200)]
Capability = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Capabilities = Annotated[list[Capability], Field(max_length=100)]


class NewAgent(Body):
    """An agent to create; it begins inactive."""

    name: Name = Field(examples=["CustomBot"])
    role: Role = Field(examples=["Custom Analysis"])
    description: Description = Field(default="", examples=["Performs custom business analysis tasks"])
    capabilities: Capabilities = Field(default_factory=list)
    model: ModelName = Field(default="", description="Model its runs ask for; empty for the default.")


class AgentChange(Body):
    """What is to change; fields that are absent or null stay."""

    name: Name | None = None
    role: Role | None = Field(default=None, examples=["Enhanced Custom Analysis"])
    description: Description | None = None
    status: AgentStatus | None = None
    capabilities: Capabilities | None = None
    model: ModelName | None = None


class AgentView(BaseModel):
    """An agent. `success_rate` is in percent of its finished runs, with one decimal."""

    id: str
    name: str
    role: str
    description: str
    status: AgentStatus
    created_at: Instant
    last_execution: Instant | None
    success_rate: float
    total_executions: int
    successful_executions: int
    capabilities: list[str]
    model: str


class Agents:
    """The routes."""

    def __init__(self, agents: "agents_pb2_grpc.AgentServiceAsyncStub") -> None:
        self._agents = agents

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/agents", tags=["aios"], route_class=StrictRoute)
        add = router.add_api_route
        add("", self.list_agents, operation_id="aios_list_agents", summary="List agents")
        add(
            "",
            self.create,
            methods=["POST"],
            status_code=201,
            operation_id="aios_create_agent",
            summary="Create an agent (administrators)",
        )
        add("/{agent_id}", self.get, operation_id="aios_get_agent", summary="Look at an agent")
        add(
            "/{agent_id}",
            self.update,
            methods=["PUT"],
            operation_id="aios_update_agent",
            summary="Change an agent (administrators)",
        )
        add(
            "/{agent_id}",
            self.delete,
            methods=["DELETE"],
            status_code=204,
            operation_id="aios_delete_agent",
            summary="Delete an agent (administrators)",
        )
        return router

    async def list_agents(
        self,
        request: Request,
        skip: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        status: AgentStatus | None = None,
    ) -> list[AgentView]:
        require_scope(request.scope, "agents")
        query = agents_pb2.ListAgentsRequest(skip=skip, limit=limit, status=status or "")
        answer = await self._agents.ListAgents(query)
        return [_shown(agent) for agent in answer.agents]

    async def create(self, request: Request, body: NewAgent) -> AgentView:
        principal = require_admin(request.scope)
        require_scope(request.scope, "agents")
        answer = await self._agents.CreateAgent(
            agents_pb2.CreateAgentRequest(**body.model_dump(), created_by=principal.user_id)
        )
        return _shown(answer.agent)

    async def get(self, request: Request, agent_id: str) -> AgentView:
        require_scope(request.scope, "agents")
        answer = await self._agents.GetAgent(agents_pb2.GetAgentRequest(id=_known(agent_id)))
        return _shown(answer.agent)

    async def update(self, request: Request, agent_id: str, body: AgentChange) -> AgentView:
        require_admin(request.scope)
        require_scope(request.scope, "agents")
        changes = body.model_dump(exclude_none=True)
        if body.capabilities is not None:
            changes["capabilities"] = agents_pb2.CapabilityList(capabilities=body.capabilities)
        answer = await self._agents.UpdateAgent(agents_pb2.UpdateAgentRequest(id=_known(agent_id), **changes))
        return _shown(answer.agent)

    async def delete(self, request: Request, agent_id: str) -> None:
        require_admin(request.scope)
        require_scope(request.scope, "agents")
        await self._agents.DeleteAgent(agents_pb2.DeleteAgentRequest(id=_known(agent_id)))


def _known(agent_id: str) -> str:
    """An id that could be an agent's; anything else is none, without asking."""
    if not is_agent_id(agent_id):
        raise NotFound("Agent not found", code="AGENT_NOT_FOUND")
    return agent_id


def _shown(agent: agents_pb2.Agent) -> AgentView:
    return AgentView(
        id=agent.id,
        name=agent.name,
        role=agent.role,
        description=agent.description,
        status="active" if agent.status == "active" else "inactive",
        created_at=views.required_instant(agent, "created_at"),
        last_execution=views.instant(agent, "last_run_at"),
        success_rate=views.percentage(agent.successful_runs, agent.runs),
        total_executions=agent.runs,
        successful_executions=agent.successful_runs,
        capabilities=list(agent.capabilities),
        model=agent.model,
    )
