"""Which agent does a development task: the one that says it can. Pure."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from services.agents.model.agent import Agent

# Capabilities that fit a kind of development task, the best first.
_FITTING: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "feature": ("feature", "feature_development", "development", "coding"),
        "bug": ("bug", "bug_fixing", "debugging", "development", "coding"),
        "docs": ("docs", "documentation", "technical_writing"),
        "test": ("test", "testing", "quality_assurance"),
    }
)
# Whoever hands out tasks takes those that nobody else can do.
_LAST_RESORT = "task_distribution"
KINDS = tuple(_FITTING)


def fitting(agents: Sequence[Agent], kind: str) -> Agent | None:
    """The agent for a development task of a kind; None when nobody can do it. The first of several that fit as well."""
    for capability in (*_FITTING[kind], _LAST_RESORT):
        for agent in agents:
            if capability in agent.capabilities:
                return agent
    return None
