"""The gRPC face of the agents service: request in, use-case, response out."""

from dataclasses import replace
from typing import Any

from mesh.agents.v1 import agents_pb2, agents_pb2_grpc

from chassis import telemetry
from services.agents.operations.executions import DEFAULT_PAGE, MAX_PAGE, Engine
from services.agents.operations.registry import Registry
from services.agents.ports import RunFilter
from services.agents.wire import calls


class AgentServicer(agents_pb2_grpc.AgentServiceServicer):
    """`mesh.agents.v1.AgentService`."""

    def __init__(self, registry: Registry, engine: Engine) -> None:
        self._registry = registry
        self._engine = engine

    async def CreateAgent(  # noqa: N802 - the contract's name
        self, request: agents_pb2.CreateAgentRequest, context: Any
    ) -> agents_pb2.CreateAgentResponse:
        del context
        draft = self._registry.draft(
            name=request.name, role=request.role, description=request.description, created_by=request.created_by
        )
        draft = replace(draft, capabilities=tuple(request.capabilities), model=request.model)
        created = await self._registry.create(draft)
        return agents_pb2.CreateAgentResponse(agent=calls.to_agent(created, await self._registry.live_port()))

    async def GetAgent(  # noqa: N802 - the contract's name
        self, request: agents_pb2.GetAgentRequest, context: Any
    ) -> agents_pb2.GetAgentResponse:
        del context
        found = await self._registry.get(request.id)
        return agents_pb2.GetAgentResponse(agent=calls.to_agent(found, await self._registry.live_port()))

    async def UpdateAgent(  # noqa: N802 - the contract's name
        self, request: agents_pb2.UpdateAgentRequest, context: Any
    ) -> agents_pb2.UpdateAgentResponse:
        del context
        changed = await self._registry.change(request.id, calls.from_update(request))
        return agents_pb2.UpdateAgentResponse(agent=calls.to_agent(changed, await self._registry.live_port()))

    async def DeleteAgent(  # noqa: N802 - the contract's name
        self, request: agents_pb2.DeleteAgentRequest, context: Any
    ) -> agents_pb2.DeleteAgentResponse:
        del context
        await self._registry.remove(request.id)
        return agents_pb2.DeleteAgentResponse()

    async def ListAgents(  # noqa: N802 - the contract's name
        self, request: agents_pb2.ListAgentsRequest, context: Any
    ) -> agents_pb2.ListAgentsResponse:
        del context
        found, total = await self._registry.page(skip=request.skip, limit=request.limit, status=request.status)
        port = await self._registry.live_port()
        return agents_pb2.ListAgentsResponse(agents=[calls.to_agent(one, port) for one in found], total=total)

    async def Execute(  # noqa: N802 - the contract's name
        self, request: agents_pb2.ExecuteRequest, context: Any
    ) -> agents_pb2.ExecuteResponse:
        del context
        execution = await self._engine.execute(calls.from_execute(request), telemetry.current_traceparent())
        return agents_pb2.ExecuteResponse(execution=calls.to_execution(execution))

    async def GetExecution(  # noqa: N802 - the contract's name
        self, request: agents_pb2.GetExecutionRequest, context: Any
    ) -> agents_pb2.GetExecutionResponse:
        del context
        execution = await self._engine.get(request.id, request.owner_id)
        return agents_pb2.GetExecutionResponse(execution=calls.to_execution(execution))

    async def CancelExecution(  # noqa: N802 - the contract's name
        self, request: agents_pb2.CancelExecutionRequest, context: Any
    ) -> agents_pb2.CancelExecutionResponse:
        del context
        execution = await self._engine.cancel(request.id, request.owner_id)
        return agents_pb2.CancelExecutionResponse(execution=calls.to_execution(execution))

    async def ListRuns(  # noqa: N802 - the contract's name
        self, request: agents_pb2.ListRunsRequest, context: Any
    ) -> agents_pb2.ListRunsResponse:
        del context
        which = RunFilter(
            skip=request.skip,
            limit=min(request.limit or DEFAULT_PAGE, MAX_PAGE),
            agent_id=request.agent_id,
            status=request.status,
            owner_id=request.owner_id,
            execution_id=request.execution_id,
        )
        runs, total = await self._engine.page(which)
        return agents_pb2.ListRunsResponse(runs=[calls.to_run(run) for run in runs], total=total)

    async def GetSummary(  # noqa: N802 - the contract's name
        self, request: agents_pb2.GetSummaryRequest, context: Any
    ) -> agents_pb2.GetSummaryResponse:
        del request, context
        return calls.to_summary(await self._registry.summary())
