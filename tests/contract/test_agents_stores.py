"""One behaviour suite for the stores of the agents service: in memory and in Postgres."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from chassis.config import Postgres
from chassis.database import open_database
from chassis.errors import Conflict, NotFound
from services.agents.model import steps
from services.agents.model.agent import AgentStatus, Figures, Measured
from services.agents.model.execution import Answer, Execution, RunStatus, Step
from services.agents.model.order import Order
from services.agents.ports import Agents, Executions, RunFilter
from services.agents.store.agents import AgentStore
from services.agents.store.executions import ExecutionStore
from services.agents.store.telling import Telling
from services.agents.wire import events, webhooks
from tests.unit.agents.fakes import NOW, FakeAgents, FakeExecutions, agent, news


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The two ports under test."""

    agents: Agents
    executions: Executions


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def migrated(request: pytest.FixtureRequest) -> Iterator[Postgres | None]:
    """A database with the schema `agents`, or None for the stores in memory."""
    if request.param == "memory":
        yield None
        return
    with request.getfixturevalue("databases").migrated("agents") as url:
        yield Postgres(url=url)


@pytest.fixture
async def kept(migrated: Postgres | None) -> AsyncIterator[Stores]:
    """Empty stores; the built-in agents are taken out of the real one."""
    if migrated is None:
        fake = FakeAgents()
        yield Stores(agents=fake, executions=FakeExecutions(fake))
        return
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(migrated, "agents"))
        real = AgentStore(
            database,
            Telling(announce=events.announce_agent, tell_owner=webhooks.tell_owner_of_agent, committed=lambda: None),
        )
        for built_in in ("task-coordinator", "ai-orchestrator"):
            await real.remove(built_in)
        telling = Telling(announce=events.announce, tell_owner=webhooks.tell_owner, committed=lambda: None)
        yield Stores(agents=real, executions=ExecutionStore(database, telling))


def _begin(key: str = "", execution_id: str = "e", **given: Any) -> Step:
    order = Order(owner_id="u", agent_ids=("a", "b"), parallel=True, timeout_seconds=60, input="x", idempotency_key=key)
    measured = [Measured(agent=agent(name), figures=Figures()) for name in ("a", "b")]
    ids = [execution_id, f"{execution_id}-0", f"{execution_id}-1"]
    return steps.begin(replace(order, **given), measured, ids, NOW, "")


async def test_agents_are_written_and_read(kept: Stores):
    """What was added comes back as it was, and only under its own id."""
    await kept.agents.add(agent("a"))
    assert (await kept.agents.get("a")) == Measured(agent=agent("a"), figures=Figures())
    with pytest.raises(NotFound):
        await kept.agents.get("b")


async def test_names_are_unique(kept: Stores):
    """On creation and on renaming; keeping one's own name is no conflict."""
    await kept.agents.add(agent("a", name="Ada"))
    await kept.agents.add(agent("b", name="Bob"))
    with pytest.raises(Conflict):
        await kept.agents.add(agent("c", name="Ada"))
    with pytest.raises(Conflict):
        await kept.agents.change("b", lambda one: replace(one, name="Ada"))
    changed = await kept.agents.change("b", lambda one: replace(one, role="new"))
    assert (changed.agent.name, changed.agent.role) == ("Bob", "new")
    with pytest.raises(NotFound):
        await kept.agents.change("z", lambda one: one)


async def test_agents_are_listed_oldest_first(kept: Stores):
    """By page and by status, with the number of all; finding keeps to what exists."""
    for number in range(3):
        status = AgentStatus.INACTIVE if number == 1 else AgentStatus.ACTIVE
        await kept.agents.add(replace(agent(f"a{number}", status=status), created_at=NOW - timedelta(days=number)))
    page, total = await kept.agents.page(skip=1, limit=1, status="")
    assert ([one.agent.id for one in page], total) == (["a1"], 3)
    page, total = await kept.agents.page(skip=0, limit=9, status="active")
    assert ([one.agent.id for one in page], total) == (["a2", "a0"], 2)
    assert [one.agent.id for one in await kept.agents.find([])] == ["a2", "a0"]
    assert {one.agent.id for one in await kept.agents.find(["a0", "zz", "a1"])} == {"a0", "a1"}
    await kept.agents.remove("a0")
    with pytest.raises(NotFound):
        await kept.agents.remove("a0")
    summary = await kept.agents.summary()
    assert (summary.agents, summary.active_agents, summary.runs) == (2, 1, 0)


async def test_executions_are_written_and_read(kept: Stores):
    """With their runs in order, for their owner and for nobody else."""
    step = _begin()
    assert await kept.executions.add(step) == step.execution
    assert await kept.executions.get("e", "u") == step.execution
    assert await kept.executions.get("e", "") == step.execution
    for foreign in (("e", "v"), ("f", "u")):
        with pytest.raises(NotFound):
            await kept.executions.get(*foreign)


async def test_a_key_has_one_execution(kept: Stores):
    """The second with the key gets the first; no key is no key, and keys belong to their owner."""
    first = await kept.executions.add(_begin("k"))
    assert await kept.executions.add(_begin("k", "e2")) == first
    assert await kept.executions.find_by_key("u", "k") == first
    assert await kept.executions.find_by_key("v", "k") is None
    assert (await kept.executions.add(_begin("", "e3"))).id == "e3"
    assert (await kept.executions.add(_begin("", "e4"))).id == "e4"
    assert (await kept.executions.add(_begin("k", "e5", owner_id="v"))).id == "e5"


def _end(execution: Execution, *, number: int, status: RunStatus) -> Step:
    told = news(execution, execution.runs[number], status, started_at=NOW - timedelta(seconds=2))
    return steps.hear(execution, replace(told, answer=Answer(output="y")), NOW)


async def test_a_step_is_kept_whole(kept: Stores):
    """Runs, execution and figures, as the step says."""
    execution = (await kept.executions.add(_begin())).id
    for number, status in enumerate((RunStatus.SUCCESS, RunStatus.FAILED)):
        step = await kept.executions.advance(execution, partial(_end, number=number, status=status))
    assert await kept.executions.get(execution, "u") == step.execution
    summary = await kept.agents.summary()
    assert (summary.runs, summary.successful_runs, summary.last_run_at) == (2, 1, NOW)
    await kept.agents.add(agent("z"))
    assert (await kept.agents.get("z")).figures == Figures()


async def test_a_change_that_raises_writes_nothing(kept: Stores):
    """The execution stays as it was."""
    before = await kept.executions.add(_begin())

    def refuse(_: Any) -> Step:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await kept.executions.advance("e", refuse)
    with pytest.raises(NotFound):
        await kept.executions.advance("f", lambda one: Step(execution=one))
    assert await kept.executions.get("e", "u") == before


async def test_the_log_is_filtered_and_newest_first(kept: Stores):
    """By owner, agent, status and execution, page by page."""
    await kept.executions.add(_begin("", "e1"))
    await kept.executions.add(_begin("", "e2", owner_id="v"))
    await kept.executions.advance("e1", lambda one: steps.refuse(one, "e1-0", "no", NOW))
    for which, ids in (
        (RunFilter(skip=0, limit=9), ["e2-1", "e2-0", "e1-1", "e1-0"]),
        (RunFilter(skip=1, limit=2), ["e2-0", "e1-1"]),
        (RunFilter(skip=0, limit=9, owner_id="u"), ["e1-1", "e1-0"]),
        (RunFilter(skip=0, limit=9, agent_id="a"), ["e2-0", "e1-0"]),
        (RunFilter(skip=0, limit=9, status="failed"), ["e1-0"]),
        (RunFilter(skip=0, limit=9, execution_id="e2", agent_id="b"), ["e2-1"]),
    ):
        runs, total = await kept.executions.page(which)
        assert [run.id for run in runs] == ids
        assert total >= len(ids)


async def test_quiet_runs_are_those_under_way(kept: Stores):
    """Runs that have ended, or whose turn has not come, are not looked at."""
    await kept.executions.add(_begin("", "e1"))
    await kept.executions.add(_begin("", "e2", parallel=False))
    await kept.executions.advance("e1", lambda one: steps.refuse(one, "e1-0", "no", NOW))
    quiet = await kept.executions.take_quiet(quiet_seconds=0, limit=10)
    assert sorted(quiet) == [("e1", "e1-1"), ("e2", "e2-0")]
    assert not await kept.executions.take_quiet(quiet_seconds=60, limit=10)
