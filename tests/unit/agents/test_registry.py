"""The use-cases around agents, over ports in memory."""

from dataclasses import replace

import pytest

from chassis.errors import Conflict, Invalid, NotFound
from services.agents.model.agent import AgentChange, AgentStatus
from services.agents.operations.registry import Registry
from tests.support.clock import FakeClock
from tests.unit.agents.fakes import FakeAgents, FakeModels, FakeRunners, agent


def _registry(agents: FakeAgents | None = None, models: FakeModels | None = None) -> Registry:
    return Registry(
        agents or FakeAgents(),
        FakeRunners(),
        models or FakeModels(),
        clock=FakeClock(),
        new_ids=lambda count: [f"id{number}" for number in range(count)],
    )


async def test_an_agent_begins_inactive():
    """With trimmed texts and distinct capabilities."""
    registry = _registry()
    draft = registry.draft(name=" Bot ", role="r", description="d", created_by="admin")
    created = await registry.create(replace(draft, capabilities=("a", " a", "", "b")))
    assert (created.agent.name, created.agent.status) == ("Bot", AgentStatus.INACTIVE)
    assert created.agent.capabilities == ("a", "b")


@pytest.mark.parametrize("change", [{"name": " "}, {"name": "x" * 101}, {"role": "a\x00b"}, {"status": "happy"}])
async def test_bad_fields_are_named(change: dict[str, str]):
    """The error says which field, and nothing is written."""
    agents = FakeAgents()
    await agents.add(agent("a"))
    with pytest.raises(Invalid) as refused:
        await _registry(agents).change("a", AgentChange(**change))  # type: ignore[arg-type]  # no capabilities among them
    assert refused.value.details["field"] in change
    assert agents.agents["a"] == agent("a")


async def test_only_what_is_present_changes():
    """Empty is a value, absent is none."""
    agents = FakeAgents()
    await agents.add(agent("a"))
    changed = await _registry(agents).change("a", AgentChange(role="", status="inactive"))
    assert changed.agent == replace(agent("a"), role="", status=AgentStatus.INACTIVE)


async def test_an_agent_answers_in_its_role():
    """The question carries who it is, the key, and whom it is for."""
    agents, models = FakeAgents(), FakeModels()
    await agents.add(agent("a", name="Ada"))
    registry = _registry(agents, models)
    answer = await registry.ask("a", input_text="", owner_id="u", key="r:answer", timeout_seconds=5)
    ((question, user_id, key),) = models.asked
    assert question.system == "You are Ada, Tester.\nYour capabilities: testing."
    assert (user_id, key, answer.output) == ("u", "r:answer", question.user)


async def test_only_active_agents_answer():
    """One that was switched off or removed meanwhile does not."""
    agents = FakeAgents()
    await agents.add(agent("off", status=AgentStatus.INACTIVE))
    for agent_id, error in (("off", Conflict), ("gone", NotFound)):
        with pytest.raises(error):
            await _registry(agents).ask(agent_id, input_text="", owner_id="u", key="k", timeout_seconds=5)
