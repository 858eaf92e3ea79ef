"""The feed of executions, in the shapes of the AI OS API: events of the agents service, and what it still knows."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from mesh.agents.v1 import agents_pb2, agents_pb2_grpc, events_pb2

from chassis.messaging.message import Message
from services.gateway.live.frames import Frame, kind_text
from services.gateway.live.source import Watched
from services.gateway.views import percentage

PATTERNS = ("agents.#",)

Built = tuple[str, str, dict[str, Any]]
_COMPLETED = "execution_completed"
_UNDER_WAY = frozenset({"pending", "running"})
# Of one user, since a moment seconds or minutes ago.
_MOST_RECENT_RUNS = 1000
# Of everybody.
_MOST_RECENT_AGENTS = 200
# Agents are subjects of their own, of which only their making is told.
_AGENT = "agent:"
_CREATED = "agent_created"


class Executions:
    """The source of ``WS /api/ws/{user_id}``. Every event is followed, watched or not: there are few of them."""

    def __init__(self, agents: "agents_pb2_grpc.AgentServiceAsyncStub") -> None:
        self._agents = agents

    def frames_of(self, message: Message, watched: Watched) -> list[Frame]:
        """See `Source`."""
        del watched
        build = _BUILDERS.get(message.type)
        return [] if build is None else [_frame(build(message.body), message.subject, message.sequence)]

    async def history(self, subject: str, since: int) -> list[Frame]:
        """See `Source`; always from the beginning, because an execution does not remember its events' numbers."""
        del since
        if subject.startswith(_AGENT):
            made = await self._agents.GetAgent(agents_pb2.GetAgentRequest(id=subject.removeprefix(_AGENT)))
            event = events_pb2.AgentCreated(agent_id=made.agent.id, name=made.agent.name)
            return [_frame(_agent_created(event.SerializeToString()), made.agent.id, 1)]
        answer = await self._agents.GetExecution(agents_pb2.GetExecutionRequest(id=subject))
        return history_of(answer.execution)

    async def recent(self, owner: str, since: datetime) -> list[str] | None:
        """See `Source`."""
        query = agents_pb2.ListRunsRequest(owner_id=owner, limit=_MOST_RECENT_RUNS)
        answer = await self._agents.ListRuns(query)
        runs = [run.execution_id for run in answer.runs if _is_since(run, since)]
        agents = await self._recent_agents(since)
        if len(runs) == _MOST_RECENT_RUNS or len(agents) == _MOST_RECENT_AGENTS:
            return None
        return [*dict.fromkeys(runs), *agents]

    async def _recent_agents(self, since: datetime) -> list[str]:
        """They are listed oldest first, so the end of the list has to be found."""
        total = (await self._agents.ListAgents(agents_pb2.ListAgentsRequest(limit=1))).total
        query = agents_pb2.ListAgentsRequest(skip=max(0, total - _MOST_RECENT_AGENTS), limit=_MOST_RECENT_AGENTS)
        made = (await self._agents.ListAgents(query)).agents
        return [_AGENT + agent.id for agent in made if agent.created_at.ToDatetime(tzinfo=UTC) >= since]


def _is_since(run: agents_pb2.Run, since: datetime) -> bool:
    if run.status in _UNDER_WAY:
        return True
    return bool(run.finished_at.ToDatetime(tzinfo=UTC) >= since)


def history_of(execution: agents_pb2.Execution) -> list[Frame]:
    """Every frame that events have told or should have told of an execution so far, in order."""
    ended = [run for run in execution.runs if run.status not in _UNDER_WAY]
    ended.sort(key=lambda run: run.finished_at.ToNanoseconds())
    built = [_started(execution), *(_completed(execution, run) for run in ended)]
    if execution.HasField("finished_at"):
        built.append(_all_completed(execution, [run.status for run in ended]))
    return [_frame(each, execution.id, sequence) for sequence, each in enumerate(built, start=1)]


def _frame(built: Built, subject: str, sequence: int) -> Frame:
    owner, kind, data = built
    return Frame(
        text=kind_text(kind, data),
        owner=owner,
        subject=_AGENT + subject if kind == _CREATED else subject,
        sequence=sequence,
        key=f"{kind} {data.get('agent_id', '')}",
        last=kind in {_COMPLETED, _CREATED},
    )


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
        duration_ms=run.duration_ms,
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
    return "", _CREATED, {"agent_id": event.agent_id, "name": event.name}


_BUILDERS: Mapping[str, Callable[[bytes], Built]] = MappingProxyType(
    {
        "mesh.agents.v1.ExecutionStarted": _execution_started,
        "mesh.agents.v1.RunFinished": _agent_completed,
        "mesh.agents.v1.ExecutionFinished": _execution_completed,
        "mesh.agents.v1.AgentCreated": _agent_created,
    }
)
