"""``/api/v1/agents``: the agents as things that run, with their live health. Changing them belongs to the AI OS API."""

from typing import Literal

from fastapi import APIRouter, Request
from mesh.agents.v1 import agents_pb2, agents_pb2_grpc
from pydantic import BaseModel

from chassis.clock import Clock
from chassis.errors import NotFound
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.ids import is_agent_id
from services.gateway.edge.context import require_scope
from services.gateway.views import Instant

_ALL = 1000

AgentStatus = Literal["healthy", "unhealthy", "inactive"]


class LiveAgent(BaseModel):
    """An agent. `status` is live: healthy while a runner that serves it is heard of; `port` is the runner's or 0."""

    id: str
    name: str
    status: AgentStatus
    port: int
    capabilities: list[str]


class AgentList(BaseModel):
    """All of them."""

    agents: list[LiveAgent]


class AgentHealth(BaseModel):
    """How an agent is, and what it has done."""

    agent_id: str
    status: AgentStatus
    checked_at: Instant
    last_execution: Instant | None
    total_executions: int
    successful_executions: int


class Agents:
    """The routes."""

    def __init__(self, agents: "agents_pb2_grpc.AgentServiceAsyncStub", clock: Clock) -> None:
        self._agents = agents
        self._clock = clock

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/agents", tags=["v1"], route_class=StrictRoute)
        add = router.add_api_route
        add("", self.list_agents, operation_id="v1_list_agents", summary="List agents")
        add("/{agent_id}", self.get, operation_id="v1_get_agent", summary="Look at an agent")
        add("/{agent_id}/health", self.health, operation_id="v1_get_agent_health", summary="How an agent is")
        return router

    async def list_agents(self, request: Request) -> AgentList:
        require_scope(request.scope, "agents")
        answer = await self._agents.ListAgents(agents_pb2.ListAgentsRequest(limit=_ALL))
        return AgentList(agents=[_shown(agent) for agent in answer.agents])

    async def get(self, request: Request, agent_id: str) -> LiveAgent:
        return _shown(await self._agent(request, agent_id))

    async def health(self, request: Request, agent_id: str) -> AgentHealth:
        agent = await self._agent(request, agent_id)
        return AgentHealth(
            agent_id=agent.id,
            status=_status(agent),
            checked_at=views.iso(self._clock.now()),
            last_execution=views.instant(agent, "last_run_at"),
            total_executions=agent.runs,
            successful_executions=agent.successful_runs,
        )

    async def _agent(self, request: Request, agent_id: str) -> agents_pb2.Agent:
        require_scope(request.scope, "agents")
        if not is_agent_id(agent_id):
            raise NotFound("Agent not found", code="AGENT_NOT_FOUND")
        answer = await self._agents.GetAgent(agents_pb2.GetAgentRequest(id=agent_id))
        return answer.agent


def _status(agent: agents_pb2.Agent) -> AgentStatus:
    if agent.status != "active":
        return "inactive"
    return "healthy" if agent.served else "unhealthy"


def _shown(agent: agents_pb2.Agent) -> LiveAgent:
    return LiveAgent(
        id=agent.id, name=agent.name, status=_status(agent), port=agent.port, capabilities=list(agent.capabilities)
    )
