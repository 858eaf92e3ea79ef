"""The use-cases around executions, over ports in memory."""

from dataclasses import replace

import pytest

from chassis.errors import Conflict, Invalid, NotFound, Unavailable
from services.agents.model.agent import AgentStatus
from services.agents.model.execution import Answer, Execution, ExecutionStatus, RunStatus
from services.agents.model.order import Order
from services.agents.operations.executions import Engine
from services.agents.ports import RunFilter
from tests.support.clock import FakeClock
from tests.unit.agents.fakes import NOW, FakeAgents, FakeExecutions, FakeTasks, agent, news


class Rig:
    """An engine over two active agents and one inactive one."""

    def __init__(self) -> None:
        self.agents, self.tasks = FakeAgents(), FakeTasks()
        self.executions = FakeExecutions(self.agents)
        for one in (agent("a"), agent("b"), agent("off", status=AgentStatus.INACTIVE)):
            self.agents.agents[one.id] = one
        self._made = 0
        self.engine = Engine(self.executions, self.agents, self.tasks, clock=FakeClock(), new_ids=self._new_ids)

    def _new_ids(self, count: int) -> list[str]:
        self._made += count
        return [f"id{number}" for number in range(self._made - count, self._made)]

    async def end(self, execution: Execution, position: int, status: RunStatus = RunStatus.SUCCESS) -> Execution:
        run = execution.runs[position]
        await self.engine.hear(news(execution, run, status, answer=Answer(output="done"), started_at=NOW))
        return self.executions.executions[execution.id]


def order(*agent_ids: str, parallel: bool = True, key: str = "", text: str = "") -> Order:
    return Order(
        owner_id="u", agent_ids=agent_ids, parallel=parallel, timeout_seconds=60, input=text, idempotency_key=key
    )


async def test_every_active_agent_takes_part_when_none_is_named():
    """And inactive ones do not."""
    it = Rig()
    execution = await it.engine.execute(order(), "")
    assert [run.agent_id for run in execution.runs] == ["a", "b"]
    assert all(run.task_id for run in execution.runs)


@pytest.mark.parametrize(("agent_id", "code"), [("nobody", "AGENT_NOT_FOUND"), ("off", "AGENT_INACTIVE")])
async def test_unknown_and_inactive_agents_are_refused(agent_id: str, code: str):
    """Before anything is written."""
    it = Rig()
    with pytest.raises(Invalid) as refused:
        await it.engine.execute(order("a", agent_id), "")
    assert refused.value.code == code
    assert (it.executions.executions, it.tasks.submitted) == ({}, [])


async def test_a_key_is_good_for_one_request():
    """The same request again starts nothing; another one with the key is a conflict."""
    it = Rig()
    first = await it.engine.execute(order("a", key="k"), "")
    assert (await it.engine.execute(order("a", key="k"), "")).id == first.id
    with pytest.raises(Conflict) as refused:
        await it.engine.execute(order("b", key="k"), "")
    assert refused.value.code == "IDEMPOTENCY_MISMATCH"


async def test_the_next_run_is_submitted_when_the_one_before_has_ended():
    """In order, one at a time, to the end."""
    it = Rig()
    execution = await it.engine.execute(order("a", "b", parallel=False), "")
    assert it.tasks.submitted == [execution.runs[0].id]
    execution = await it.end(execution, 0, RunStatus.FAILED)
    assert it.tasks.submitted == [run.id for run in execution.runs]
    execution = await it.end(execution, 1)
    assert execution.status is ExecutionStatus.COMPLETED


async def test_an_outage_of_the_tasks_service_only_delays():
    """The execution is accepted, stays due, and is submitted by the repair."""
    it = Rig()
    it.tasks.failure = Unavailable()
    execution = await it.engine.execute(order("a", "b"), "")
    assert len(execution.due) == 2
    assert await it.engine.repair(quiet_seconds=0)
    it.tasks.failure = None
    assert not await it.engine.repair(quiet_seconds=0)
    assert len(it.tasks.submitted) == 2


async def test_a_refusal_ends_the_run():
    """What the tasks service will never take has failed, with its words."""
    it = Rig()
    it.tasks.failure = Invalid("payload too large")
    execution = await it.engine.execute(order("a", "b"), "")
    assert execution.status is ExecutionStatus.COMPLETED
    assert {(run.status, run.error) for run in execution.runs} == {(RunStatus.FAILED, "payload too large")}


async def test_the_repair_hears_what_the_bus_missed():
    """A run without news is looked at, and its end is applied."""
    it = Rig()
    execution = await it.engine.execute(order("a"), "")
    run = execution.runs[0]
    it.tasks.standing[run.id] = news(execution, run, RunStatus.SUCCESS, answer=Answer(output="yes"), started_at=NOW)
    await it.engine.repair(quiet_seconds=0)
    assert it.executions.executions[execution.id].runs[0].output == "yes"


async def test_an_end_that_overtakes_its_start_is_looked_up():
    """Then the task itself knows when it started."""
    it = Rig()
    execution = await it.engine.execute(order("a"), "")
    run = execution.runs[0]
    it.tasks.standing[run.id] = news(execution, run, RunStatus.SUCCESS, started_at=NOW)
    await it.engine.hear(news(execution, run, RunStatus.SUCCESS, is_whole=False))
    assert it.executions.executions[execution.id].runs[0].started_at == NOW


async def test_news_of_nobody_is_ignored():
    """A task that names an execution which does not exist, or is another's."""
    it = Rig()
    execution = await it.engine.execute(order("a"), "")
    ghost = replace(news(execution, execution.runs[0], RunStatus.SUCCESS), execution_id="ghost")
    await it.engine.hear(ghost)
    await it.engine.hear(news(execution, execution.runs[0], RunStatus.SUCCESS, owner_id="v"))
    assert it.executions.executions == {execution.id: execution}


async def test_cancelling_asks_what_runs_to_stop_and_asks_again():
    """The tasks service is away at the first call; the repair asks again."""
    it = Rig()
    execution = await it.engine.execute(order("a", "b", parallel=False), "")
    it.tasks.failure = Unavailable()
    await it.engine.cancel(execution.id, "u")
    assert it.tasks.cancelled == []
    it.tasks.failure = None
    await it.engine.repair(quiet_seconds=0)
    assert it.tasks.cancelled == [execution.runs[0].id]
    with pytest.raises(NotFound):
        await it.engine.cancel(execution.id, "v")


async def test_an_unknown_status_is_no_filter():
    """It is the caller's mistake."""
    with pytest.raises(Invalid):
        await Rig().engine.page(RunFilter(skip=0, limit=1, status="happy"))
