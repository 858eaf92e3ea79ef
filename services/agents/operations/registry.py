"""Agents: created, read, changed, removed, counted, and asked."""

from collections.abc import Sequence

from chassis.clock import Clock
from chassis.errors import Conflict
from services.agents.model.agent import (
    Agent,
    AgentChange,
    AgentStatus,
    Measured,
    Summary,
    changed,
    checked,
    parse_status,
    question,
)
from services.agents.model.execution import Answer
from services.agents.model.matching import fitting
from services.agents.ports import Agents, Models, NewIds, Runners

DEFAULT_PAGE = 100
MAX_PAGE = 1000


class Registry:
    """The use-cases around agents."""

    def __init__(self, agents: Agents, runners: Runners, models: Models, *, clock: Clock, new_ids: NewIds) -> None:
        self._agents = agents
        self._runners = runners
        self._models = models
        self._clock = clock
        self._new_ids = new_ids

    async def create(self, draft: Agent) -> Measured:
        """Creates an agent, inactive, under an id of its own. Raises Invalid, Conflict."""
        agent = checked(draft)
        await self._agents.add(agent)
        return await self._agents.get(agent.id)

    def draft(self, *, name: str, role: str, description: str, created_by: str) -> Agent:
        """An agent that nobody has seen yet."""
        return Agent(
            id=self._new_ids(1)[0],
            name=name,
            role=role,
            description=description,
            status=AgentStatus.INACTIVE,
            capabilities=(),
            model="",
            created_by=created_by,
            created_at=self._clock.now(),
        )

    async def get(self, agent_id: str) -> Measured:
        """Raises NotFound."""
        return await self._agents.get(agent_id)

    async def change(self, agent_id: str, change: AgentChange) -> Measured:
        """Changes what is present. Raises NotFound, Invalid, Conflict."""
        return await self._agents.change(agent_id, lambda agent: changed(agent, change))

    async def remove(self, agent_id: str) -> None:
        """Raises NotFound."""
        await self._agents.remove(agent_id)

    async def page(self, *, skip: int, limit: int, status: str) -> tuple[Sequence[Measured], int]:
        """Oldest first. `limit` 0 means 100; at most 1000. Raises Invalid for an unknown status."""
        if status:
            parse_status(status)
        return await self._agents.page(skip=skip, limit=min(limit or DEFAULT_PAGE, MAX_PAGE), status=status)

    async def summary(self) -> Summary:
        """Figures over everything."""
        return await self._agents.summary()

    async def live_port(self) -> int:
        """Where a live runner is reached; 0 when there is none. Every runner serves every agent."""
        return await self._runners.live_port()

    async def find_fitting(self, kind: str) -> Agent | None:
        """The active agent for a development task of a kind; None when nobody can do it."""
        return fitting([measured.agent for measured in await self._agents.find(())], kind)

    async def ask(self, agent_id: str, *, input_text: str, owner_id: str, key: str, timeout_seconds: float) -> Answer:
        """What an active agent answers. Raises NotFound, Conflict when it is inactive, and what the model raises."""
        agent = (await self._agents.get(agent_id)).agent
        if agent.status is not AgentStatus.ACTIVE:
            raise Conflict("The agent is not active", code="AGENT_INACTIVE", details={"agent_id": agent_id})
        return await self._models.ask(
            question(agent, input_text), user_id=owner_id, key=key, timeout_seconds=timeout_seconds
        )
