"""The hub tells those who watch, and nobody else."""

import asyncio
import json
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.agents.v1 import agents_pb2, events_pb2

from chassis.errors import Exhausted, NotFound, Unavailable
from services.gateway.live.executions import Executions
from services.gateway.live.figures import Figures
from services.gateway.live.hub import Hub
from services.gateway.live.mailbox import GOING_AWAY, MISSED, Mailbox
from services.gateway.live.order import HOLD_SECONDS
from tests.support.clock import FakeClock
from tests.unit.gateway.live.events import run_finished, told


class Agents:
    """The agents service: `executions` by id, and `made` agents; away while `away`."""

    def __init__(self) -> None:
        self.executions: dict[str, agents_pb2.Execution] = {}
        self.made: list[agents_pb2.Agent] = []
        self.away = False
        self.asked: list[str] = []

    async def GetExecution(self, request: Any) -> Any:  # noqa: N802 - the contract's name
        self.asked.append(request.id)
        if self.away:
            raise Unavailable(private="killed")
        if request.id not in self.executions:
            raise NotFound("Execution not found")
        return agents_pb2.GetExecutionResponse(execution=self.executions[request.id])

    async def ListRuns(self, request: Any) -> Any:  # noqa: N802 - the contract's name
        if self.away:
            raise Unavailable(private="killed")
        mine = [each for each in self.executions.values() if each.owner_id == request.owner_id]
        runs = [agents_pb2.Run(execution_id=each.id, status="success", finished_at=LATE) for each in mine]
        return agents_pb2.ListRunsResponse(runs=runs)

    async def ListAgents(self, request: Any) -> Any:  # noqa: N802 - the contract's name
        page = self.made[request.skip :][: request.limit]
        return agents_pb2.ListAgentsResponse(agents=page, total=len(self.made))

    async def GetAgent(self, request: Any) -> Any:  # noqa: N802 - the contract's name
        return agents_pb2.GetAgentResponse(agent=next(each for each in self.made if each.id == request.id))


LATE = Timestamp(seconds=4_000_000_000)


@pytest.fixture
def agents() -> Agents:
    return Agents()


@pytest.fixture
def hub(agents: Agents) -> Hub:
    stub: Any = agents
    return Hub(FakeClock(), Executions(stub))


def clock(hub: Hub) -> FakeClock:
    assert isinstance(hub._clock, FakeClock)
    return hub._clock


def add_finished(agents: Agents, runs: int) -> None:
    """Execution e1, in which all runs have ended, in the order of their ids."""
    ended = [
        agents_pb2.Run(agent_id=f"a{number}", status="success", finished_at=Timestamp(seconds=number))
        for number in range(2, runs + 2)
    ]
    execution = agents_pb2.Execution(id="e1", owner_id="u1", runs=ended, finished_at=Timestamp(seconds=99))
    agents.executions["e1"] = execution


async def fill_after(hub: Hub, seconds: float) -> None:
    clock(hub).advance(seconds)
    await hub.fill()


def kinds(mailbox: Mailbox) -> list[str]:
    return [json.loads(frame.text)["type"] for frame in mailbox._frames]


def test_an_event_reaches_every_socket_of_its_owner(hub: Hub):
    """And no socket of another."""
    with hub.joined("u1") as one, hub.joined("u1") as two, hub.joined("u2") as other:
        hub.tell(run_finished(1))
    assert [kinds(mailbox) for mailbox in (one, two, other)] == [["agent_completed"], ["agent_completed"], []]


def test_news_without_an_owner_reach_everybody(hub: Hub):
    """A new agent, for one."""
    with hub.joined("u1") as one, hub.joined("u2") as two:
        hub.tell(told(events_pb2.AgentCreated(agent_id="a"), "a", 1))
    assert kinds(one) == kinds(two) == ["agent_created"]


async def test_new_agents_that_the_bus_did_not_tell_of_are_looked_up(hub: Hub, agents: Agents):
    """Once, whether the bus tells of them too or not; those that were there before are no news."""
    early = [agents_pb2.Agent(id=f"old{number}", created_at=Timestamp(seconds=1)) for number in range(300)]
    late = [agents_pb2.Agent(id=name, name=name, created_at=LATE) for name in ("a", "b")]
    agents.made = [*early, *late]
    with hub.joined("u1") as one, hub.joined("u2") as two:
        hub.tell(told(events_pb2.AgentCreated(agent_id="a", name="a"), "a", 1))
        for _ in range(2):
            hub.suspect()
            await fill_after(hub, 1)
            heard = [[json.loads(frame.text)["data"]["name"] for frame in mailbox._frames] for mailbox in (one, two)]
            assert heard == [["a", "b"]] * 2
        hub.tell(told(events_pb2.AgentCreated(agent_id="b", name="b"), "b", 1))
        assert [len(mailbox._frames) for mailbox in (one, two)] == [2, 2]


@pytest.mark.parametrize(("agents_made", "runs_ended"), [(200, 0), (0, 1000)])
async def test_sockets_end_when_more_may_be_missing_than_can_be_told(
    hub: Hub, agents: Agents, agents_made: int, runs_ended: int
):
    """What is behind the page that is looked at may be new too."""
    agents.made = [agents_pb2.Agent(id=f"a{number}", created_at=LATE) for number in range(agents_made)]
    agents.executions = {
        f"e{number}": agents_pb2.Execution(id=f"e{number}", owner_id="u1") for number in range(runs_ended)
    }
    with hub.joined("u1") as mailbox, hub.joined("u2") as other:
        hub.suspect()
        await fill_after(hub, 1)
        assert mailbox.ending == MISSED
        assert other.ending == (MISSED if agents_made else None)


def test_events_of_an_execution_come_in_order(hub: Hub):
    """However the bus brings them."""
    with hub.joined("u1") as mailbox:
        for sequence in (2, 1, 3, 2):
            hub.tell(run_finished(sequence))
        agents = [json.loads(frame.text)["data"]["agent_id"] for frame in mailbox._frames]
    assert agents == ["a1", "a2", "a3"]


def test_nobody_is_told_what_was_before(hub: Hub):
    """A socket hears from when it joined."""
    hub.tell(run_finished(1))
    with hub.joined("u1") as mailbox:
        assert kinds(mailbox) == []


def test_a_user_has_a_hundred_sockets_and_no_more(hub: Hub):
    """One that leaves makes room for one that comes."""
    entered = [hub.joined("u1") for _ in range(100)]
    for each in entered:
        each.__enter__()
    with pytest.raises(Exhausted) as refusal, hub.joined("u1"):
        pass
    assert refusal.value.code == "TOO_MANY_SOCKETS"
    entered[0].__exit__(None, None, None)
    with hub.joined("u1"):
        assert hub.rooms.sockets == 100
    for each in entered[1:]:
        each.__exit__(None, None, None)
    assert hub.rooms.sockets == 0


def test_figures_are_those_of_this_machine(hub: Hub):
    """With the score that the process gives itself."""
    figures = Figures(hub.rooms, clock(hub), lambda: 0.5)
    data = json.loads(figures.metrics().text)["data"]
    assert data["system_health_score"] == 0.5
    assert 0 <= data["memory_usage"] <= 100


async def test_a_drain_ends_every_socket_and_takes_no_new_one(hub: Hub):
    """And waits until all have left."""
    with hub.joined("u1") as mailbox:
        draining = asyncio.ensure_future(hub.drain())
        assert await mailbox.ended() == GOING_AWAY
        assert not draining.done()
        with pytest.raises(Exhausted), hub.joined("u2"):
            pass
    await draining


WHOLE = ["execution_started", "agent_completed", "agent_completed", "execution_completed"]


async def test_what_the_bus_lost_is_looked_up(hub: Hub, agents: Agents):
    """A gap is filled in its place."""
    add_finished(agents, 2)
    with hub.joined("u1") as mailbox:
        hub.tell(told(events_pb2.ExecutionStarted(execution_id="e1", owner_id="u1"), "e1", 1))
        hub.tell(run_finished(3))
        await fill_after(hub, HOLD_SECONDS)
        assert kinds(mailbox) == WHOLE


async def test_an_end_that_was_lost_is_looked_up_after_the_bus_was_away(hub: Hub, agents: Agents):
    """Nothing waits behind it, so only the new subscription tells that it may be missing."""
    add_finished(agents, 2)
    with hub.joined("u1") as mailbox:
        hub.tell(told(events_pb2.ExecutionStarted(execution_id="e1", owner_id="u1"), "e1", 1))
        await fill_after(hub, 1)
        assert kinds(mailbox) == ["execution_started"]
        hub.suspect()
        await fill_after(hub, 1)
        assert kinds(mailbox) == WHOLE


async def test_an_execution_of_which_nothing_was_heard_is_found(hub: Hub, agents: Agents):
    """It began and ended while the broker was away: its events were published to nobody."""
    with hub.joined("u1") as mailbox:
        add_finished(agents, 2)
        hub.suspect()
        await fill_after(hub, 1)
        assert kinds(mailbox) == WHOLE
        hub.suspect()
        await fill_after(hub, 1)
        assert kinds(mailbox) == WHOLE


async def test_what_cannot_be_looked_up_now_is_looked_up_later(hub: Hub, agents: Agents):
    """The service may be away together with the broker; sockets wait, in order."""
    add_finished(agents, 2)
    agents.away = True
    with hub.joined("u1") as mailbox:
        hub.tell(told(events_pb2.ExecutionStarted(execution_id="e1", owner_id="u1"), "e1", 1))
        hub.suspect()
        for _ in range(3):
            await fill_after(hub, 2)
        assert kinds(mailbox) == ["execution_started"]
        agents.away = False
        await fill_after(hub, 2)
        assert kinds(mailbox) == WHOLE
        assert mailbox.ending is None


async def test_sockets_that_would_miss_something_are_closed(hub: Hub, agents: Agents):
    """Half a minute is long enough to wait; who connects again is told from the records."""
    agents.away = True
    with hub.joined("u1") as mailbox, hub.joined("u2") as other:
        hub.tell(run_finished(2))
        for _ in range(20):
            await fill_after(hub, 2)
        assert mailbox.ending == MISSED
        assert other.ending is None


async def test_nothing_is_looked_up_for_nobody(hub: Hub, agents: Agents):
    """A broker that comes back must not bring a question for every execution of every user."""
    with hub.joined("u2"):
        hub.tell(run_finished(1))
        hub.suspect()
        await fill_after(hub, 1)
    assert agents.asked == []


async def test_what_is_gone_holds_nothing_up(hub: Hub):
    """An execution that nobody knows has no history; what waits is told without it."""
    with hub.joined("u1") as mailbox:
        hub.tell(run_finished(2))
        await fill_after(hub, HOLD_SECONDS)
        assert kinds(mailbox) == ["agent_completed"]
