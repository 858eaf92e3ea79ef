"""Everything the agents service needs from the world, on one page.

Every method raises Unavailable when what is behind it does not answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.agents.model.agent import Agent, Measured, Question, Summary
from services.agents.model.execution import Answer, Execution, News, Run, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs of the log, newest first. Empty fields do not filter."""

    skip: int
    limit: int
    agent_id: str = ""
    status: str = ""
    owner_id: str = ""
    execution_id: str = ""


class Agents(Protocol):
    """Agents at rest, with the figures of their runs."""

    async def add(self, agent: Agent) -> None:
        """Writes and announces a new agent. Raises Conflict when its name is taken."""

    async def get(self, agent_id: str) -> Measured:
        """Raises NotFound."""

    async def change(self, agent_id: str, change: Callable[[Agent], Agent]) -> Measured:
        """Applies `change` under a lock. Raises NotFound, Conflict for a taken name, and what `change` raises."""

    async def remove(self, agent_id: str) -> None:
        """Removes an agent; its runs stay in the log. Raises NotFound."""

    async def find(self, agent_ids: Sequence[str]) -> Sequence[Measured]:
        """Those of the named agents that exist; every active one when none is named, oldest first."""

    async def page(self, *, skip: int, limit: int, status: str) -> tuple[Sequence[Measured], int]:
        """Oldest first, and how many there are in all."""

    async def summary(self) -> Summary:
        """Figures over everything."""


class Executions(Protocol):
    """Executions at rest. What a step writes and what it announces are committed together."""

    async def add(self, step: Step) -> Execution:
        """Writes a new execution; returns the one that already has its owner's key instead, when there is one."""

    async def get(self, execution_id: str, owner_id: str) -> Execution:
        """`owner_id` empty: whoever owns it. Raises NotFound."""

    async def find_by_key(self, owner_id: str, key: str) -> Execution | None:
        """The execution that an idempotency key belongs to."""

    async def advance(self, execution_id: str, change: Callable[[Execution], Step]) -> Step:
        """Applies `change` under the execution's lock. Raises NotFound and what `change` raises."""

    async def page(self, which: RunFilter) -> tuple[Sequence[Run], int]:
        """Runs, and how many fit in all."""

    async def take_quiet(self, *, quiet_seconds: float, limit: int) -> Sequence[tuple[str, str]]:
        """Execution and run ids of runs that are on their way and of which nothing was heard for so long.

        Each is handed out once in that time, whoever asks.
        """


class Runners(Protocol):
    """The processes that run agents, under leases on the database's clock."""

    async def renew(self, instance: str, *, port: int, lease_seconds: float) -> None:
        """The process is there and reachable at its gRPC port."""

    async def remove(self, instance: str) -> None:
        """The process has left."""

    async def live_port(self) -> int:
        """The port of the runner heard of last; 0 when none is within its lease."""


class Tasks(Protocol):
    """The tasks service, for runs."""

    async def submit(self, execution: Execution, run: Run) -> str:
        """The id of the run's task; the same again for the same run. Raises Invalid when it will never be accepted."""

    async def look(self, execution: Execution, run: Run) -> News:
        """How the run's task stands. Raises NotFound when the tasks service does not know it."""

    async def cancel(self, execution: Execution, run: Run) -> None:
        """Asks the run's task to stop; one that has ended already stays as it is."""


class Models(Protocol):
    """The llm service, for agents."""

    async def ask(self, question: Question, *, user_id: str, key: str, timeout_seconds: float) -> Answer:
        """The answer; with the same key the same one again, unpaid. Raises Invalid for an unknown model."""


NewIds = Callable[[int], Sequence[str]]
Accepted = Mapping[str, str]
