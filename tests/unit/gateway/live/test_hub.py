"""The hub tells those who watch, and nobody else."""

import asyncio
import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.agents.v1 import agents_pb2, events_pb2

from chassis.errors import Exhausted, Unavailable
from services.gateway.live.hub import History, Hub
from services.gateway.live.mailbox import GOING_AWAY, Mailbox
from services.gateway.live.order import HOLD_SECONDS
from tests.support.clock import FakeClock
from tests.unit.gateway.live.events import run_finished, told


@pytest.fixture
def hub() -> Hub:
    return Hub(FakeClock(), lambda: 0.5)


def clock(hub: Hub) -> FakeClock:
    assert isinstance(hub._clock, FakeClock)
    return hub._clock


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
        assert hub.sockets == 100
    for each in entered[1:]:
        each.__exit__(None, None, None)
    assert hub.sockets == 0


def test_figures_are_those_of_this_machine(hub: Hub):
    """With the score that the process gives itself."""
    data = json.loads(hub.metrics().text)["data"]
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


def finished(runs: int) -> History:
    """A history in which all runs of execution e1 have ended, in the order of their ids."""

    async def read(execution_id: str) -> agents_pb2.Execution:
        ended = [
            agents_pb2.Run(agent_id=f"a{number}", status="success", finished_at=Timestamp(seconds=number))
            for number in range(2, runs + 2)
        ]
        end = Timestamp(seconds=99)
        return agents_pb2.Execution(id=execution_id, owner_id="u1", runs=ended, finished_at=end)

    return read


async def test_what_the_bus_lost_is_looked_up(hub: Hub):
    """A gap is filled in its place."""
    hub.learn_from(finished(2))
    with hub.joined("u1") as mailbox:
        hub.tell(told(events_pb2.ExecutionStarted(execution_id="e1", owner_id="u1"), "e1", 1))
        hub.tell(run_finished(3))
        clock(hub).advance(HOLD_SECONDS)
        await hub.fill()
        expected = ["execution_started", "agent_completed", "agent_completed", "execution_completed"]
        assert kinds(mailbox) == expected


async def test_an_end_that_was_lost_is_looked_up_after_the_bus_was_away(hub: Hub):
    """Nothing waits behind it, so only the new subscription tells that it may be missing."""
    hub.learn_from(finished(1))
    with hub.joined("u1") as mailbox:
        hub.tell(told(events_pb2.ExecutionStarted(execution_id="e1", owner_id="u1"), "e1", 1))
        await hub.fill()
        assert kinds(mailbox) == ["execution_started"]
        hub.suspect()
        await hub.fill()
        assert kinds(mailbox) == ["execution_started", "agent_completed", "execution_completed"]


async def test_nothing_is_looked_up_for_nobody(hub: Hub):
    """A broker that comes back must not bring a question for every execution of every user."""
    asked: list[str] = []

    async def read(execution_id: str) -> agents_pb2.Execution:
        asked.append(execution_id)
        return agents_pb2.Execution(id=execution_id)

    hub.learn_from(read)
    hub.tell(run_finished(1))
    hub.suspect()
    await hub.fill()
    assert asked == []


async def test_without_an_answer_it_goes_on(hub: Hub):
    """A service that is away does not hold up what is here."""

    async def away(execution_id: str) -> agents_pb2.Execution:
        raise Unavailable(private=execution_id)

    hub.learn_from(away)
    with hub.joined("u1") as mailbox:
        hub.tell(run_finished(2))
        clock(hub).advance(HOLD_SECONDS)
        await hub.fill()
        assert kinds(mailbox) == ["agent_completed"]
