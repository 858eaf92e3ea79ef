"""The ports of the agents service in memory. The stores keep to `tests/contract/test_agents_stores.py`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from chassis.errors import MeshError
from services.agents.model.agent import (
    Agent,
    AgentStatus,
    Figures,
    Measured,
    Question,
    Summary,
    agent_not_found,
    name_taken,
)
from services.agents.model.execution import Answer, Event, Execution, News, Run, RunStatus, Step
from services.agents.model.steps import execution_not_found
from services.agents.ports import RunFilter

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def agent(agent_id: str, *, name: str = "", status: AgentStatus = AgentStatus.ACTIVE) -> Agent:
    """An agent that nobody would look at twice."""
    return Agent(
        id=agent_id,
        name=name or agent_id,
        role="Tester",
        description="",
        status=status,
        capabilities=("testing",),
        model="",
        created_by="admin",
        created_at=NOW,
    )


class FakeAgents:
    """`services.agents.ports.Agents` in a dictionary."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self.figures: dict[str, Figures] = {}
        self.told: list[str] = []

    async def add(self, new: Agent) -> None:
        self._check_name(new)
        self.agents[new.id] = new
        self.told.append(new.id)

    async def get(self, agent_id: str) -> Measured:
        if agent_id not in self.agents:
            raise agent_not_found(agent_id)
        return Measured(agent=self.agents[agent_id], figures=self.figures.get(agent_id, Figures()))

    async def change(self, agent_id: str, change: Callable[[Agent], Agent]) -> Measured:
        after = change((await self.get(agent_id)).agent)
        self._check_name(after)
        self.agents[agent_id] = after
        return await self.get(agent_id)

    async def remove(self, agent_id: str) -> None:
        await self.get(agent_id)
        del self.agents[agent_id]

    async def find(self, agent_ids: Sequence[str]) -> Sequence[Measured]:
        active = [one.id for one in self._sorted() if one.status is AgentStatus.ACTIVE]
        wanted = [agent_id for agent_id in agent_ids if agent_id in self.agents] if agent_ids else active
        return [await self.get(agent_id) for agent_id in wanted]

    async def page(self, *, skip: int, limit: int, status: str) -> tuple[Sequence[Measured], int]:
        fitting = [one for one in self._sorted() if status in {"", one.status}]
        return [await self.get(one.id) for one in fitting[skip : skip + limit]], len(fitting)

    async def summary(self) -> Summary:
        figures = list(self.figures.values())
        return Summary(
            agents=len(self.agents),
            active_agents=sum(one.status is AgentStatus.ACTIVE for one in self.agents.values()),
            runs=sum(one.runs for one in figures),
            successful_runs=sum(one.successful_runs for one in figures),
            last_run_at=max((one.last_run_at for one in figures if one.last_run_at), default=None),
        )

    def count(self, run: Run) -> None:
        """Adds a finished run to the figures."""
        before = self.figures.get(run.agent_id, Figures())
        success = run.status is RunStatus.SUCCESS
        self.figures[run.agent_id] = Figures(
            runs=before.runs + 1,
            successful_runs=before.successful_runs + success,
            successful_ms=before.successful_ms + (run.duration_ms if success else 0),
            last_run_at=run.finished_at,
        )

    def _sorted(self) -> list[Agent]:
        return sorted(self.agents.values(), key=lambda one: (one.created_at, one.id))

    def _check_name(self, new: Agent) -> None:
        if any(other.name == new.name and other.id != new.id for other in self.agents.values()):
            raise name_taken(new.name)


class FakeExecutions:
    """`services.agents.ports.Executions` in a dictionary. What `quiet` names is handed out by `take_quiet`."""

    def __init__(self, agents: FakeAgents) -> None:
        self._agents = agents
        self.executions: dict[str, Execution] = {}
        self.events: list[Event] = []

    async def add(self, step: Step) -> Execution:
        order = step.execution.order
        known = await self.find_by_key(order.owner_id, order.idempotency_key)
        if known is not None:
            return known
        self.executions[step.execution.id] = step.execution
        self.events += step.events
        return step.execution

    async def get(self, execution_id: str, owner_id: str) -> Execution:
        found = self.executions.get(execution_id)
        if found is None or owner_id not in {"", found.order.owner_id}:
            raise execution_not_found(execution_id)
        return found

    async def find_by_key(self, owner_id: str, key: str) -> Execution | None:
        fitting = (
            one
            for one in self.executions.values()
            if key and (one.order.owner_id, one.order.idempotency_key) == (owner_id, key)
        )
        return next(fitting, None)

    async def advance(self, execution_id: str, change: Callable[[Execution], Step]) -> Step:
        step = change(await self.get(execution_id, ""))
        self.executions[execution_id] = step.execution
        self.events += step.events
        for run in step.finished:
            self._agents.count(run)
        return step

    async def page(self, which: RunFilter) -> tuple[Sequence[Run], int]:
        fitting = [
            run
            for execution in self.executions.values()
            if which.owner_id in {"", execution.order.owner_id} and which.execution_id in {"", execution.id}
            for run in execution.runs
            if which.agent_id in {"", run.agent_id} and which.status in {"", run.status}
        ]
        fitting.sort(key=lambda run: (run.created_at, run.id), reverse=True)
        return fitting[which.skip : which.skip + which.limit], len(fitting)

    async def take_quiet(self, *, quiet_seconds: float, limit: int) -> Sequence[tuple[str, str]]:
        under_way = [
            (execution.id, run.id)
            for execution in self.executions.values()
            for run in execution.runs
            if not run.status.is_end and run.deadline_at is not None
        ]
        return under_way[:limit] if quiet_seconds == 0 else []


class FakeTasks:
    """`services.agents.ports.Tasks`: accepts what is submitted, once for each run, unless it is to fail."""

    failure: MeshError | None = None

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.cancelled: list[str] = []
        self.standing: dict[str, News] = {}

    async def submit(self, execution: Execution, run: Run) -> str:
        if self.failure is not None:
            raise self.failure
        if run.id not in self.submitted:
            self.submitted.append(run.id)
        return f"task_{run.id}"

    async def look(self, execution: Execution, run: Run) -> News:
        pending = news(execution, run, RunStatus.PENDING)
        return self.standing.get(run.id, pending)

    async def cancel(self, execution: Execution, run: Run) -> None:
        if self.failure is not None:
            raise self.failure
        self.cancelled.append(run.id)


class FakeModels:
    """`services.agents.ports.Models`: repeats the question."""

    def __init__(self) -> None:
        self.asked: list[tuple[Question, str, str]] = []

    async def ask(self, question: Question, *, user_id: str, key: str, timeout_seconds: float) -> Answer:
        self.asked.append((question, user_id, key))
        return Answer(output=question.user, model="fake", tokens=7)


class FakeRunners:
    """`services.agents.ports.Runners` of one process."""

    port = 0

    async def renew(self, instance: str, *, port: int, lease_seconds: float) -> None:
        self.port = port

    async def remove(self, instance: str) -> None:
        self.port = 0

    async def live_port(self) -> int:
        return self.port


def news(execution: Execution, run: Run, status: RunStatus, **known: object) -> News:
    """News of a run's task."""
    plain = News(
        execution_id=execution.id,
        run_id=run.id,
        task_id=f"task_{run.id}",
        owner_id=execution.order.owner_id,
        status=status,
        at=NOW,
        is_whole=True,
    )
    return replace(plain, **known)  # type: ignore[arg-type]  # fields of News by their names
