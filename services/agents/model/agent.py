"""Agents: what they are, what may be written into them, and the figures of their runs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from chassis.errors import Conflict, Invalid, NotFound

_MOST_NAME_CHARACTERS = 100
_MOST_ROLE_CHARACTERS = 200
_MOST_TEXT_CHARACTERS = 20_000
_MOST_CAPABILITIES = 100


class AgentStatus(StrEnum):
    """Only active agents take part in executions."""

    ACTIVE = "active"
    INACTIVE = "inactive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent as it was written. `model` is empty for the default one."""

    id: str
    name: str
    role: str
    description: str
    status: AgentStatus
    capabilities: tuple[str, ...]
    model: str
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the finished runs of an agent add up to.

    Attributes:
        successful_ms: duration of the successful runs together.
        last_run_at: end of the last run.
    """

    runs: int = 0
    successful_runs: int = 0
    successful_ms: int = 0
    last_run_at: datetime | None = None

    @property
    def mean_seconds(self) -> float:
        """How long a successful run takes on average; 0 when there was none."""
        return self.successful_ms / self.successful_runs / 1000 if self.successful_runs else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An agent and its figures."""

    agent: Agent
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChange:
    """The fields of an agent that shall change; None leaves one as it is."""

    name: str | None = None
    role: str | None = None
    description: str | None = None
    status: str | None = None
    model: str | None = None
    capabilities: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures over all agents."""

    agents: int
    active_agents: int
    runs: int
    successful_runs: int
    last_run_at: datetime | None


def checked(agent: Agent) -> Agent:
    """The agent as it may be written, its texts trimmed. Raises Invalid that names the field."""
    name = _text("name", agent.name, _MOST_NAME_CHARACTERS)
    if not name:
        raise _invalid("name", "must not be empty")
    capabilities = _unique(_text("capabilities", one, _MOST_NAME_CHARACTERS) for one in agent.capabilities)
    if len(capabilities) > _MOST_CAPABILITIES:
        raise _invalid("capabilities", f"must be at most {_MOST_CAPABILITIES}")
    return replace(
        agent,
        name=name,
        role=_text("role", agent.role, _MOST_ROLE_CHARACTERS),
        description=_text("description", agent.description, _MOST_TEXT_CHARACTERS),
        model=_text("model", agent.model, _MOST_ROLE_CHARACTERS),
        capabilities=capabilities,
    )


def changed(agent: Agent, change: AgentChange) -> Agent:
    """The agent with the change applied. Raises Invalid that names the field."""
    return checked(
        replace(
            agent,
            name=agent.name if change.name is None else change.name,
            role=agent.role if change.role is None else change.role,
            description=agent.description if change.description is None else change.description,
            status=agent.status if change.status is None else parse_status(change.status),
            model=agent.model if change.model is None else change.model,
            capabilities=agent.capabilities if change.capabilities is None else change.capabilities,
        )
    )


def parse_status(value: str) -> AgentStatus:
    """The status a caller named. Raises Invalid."""
    if value not in tuple(AgentStatus):
        raise _invalid("status", "must be active or inactive")
    return AgentStatus(value)


def agent_not_found(agent_id: str) -> NotFound:
    """There is no such agent."""
    return NotFound("Agent not found", code="AGENT_NOT_FOUND", details={"agent_id": agent_id})


def name_taken(name: str) -> Conflict:
    """Another agent has that name."""
    return Conflict("An agent with this name exists", code="AGENT_EXISTS", details={"name": name})


def _text(field: str, value: str, most: int) -> str:
    if "\x00" in value:
        raise _invalid(field, "must not contain NUL")
    value = value.strip()
    if len(value) > most:
        raise _invalid(field, f"must have at most {most} characters")
    return value


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


def _invalid(field: str, sentence: str) -> Invalid:
    return Invalid(f"{field} {sentence}", details={"field": field})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked on behalf of an agent. `model` is empty for the default one."""

    model: str
    system: str
    user: str


def question(agent: Agent, input_text: str) -> Question:
    """The agent's role as the model's, and its input, or its own mission where there is none, as the request."""
    lines = [f"You are {agent.name}" + (f", {agent.role}." if agent.role else ".")]
    if agent.description:
        lines.append(agent.description)
    if agent.capabilities:
        lines.append(f"Your capabilities: {', '.join(agent.capabilities)}.")
    mission = "Carry out your role now and report what you found or did."
    return Question(model=agent.model, system="\n".join(lines), user=input_text or mission)
