"""The hub tells those who watch, and nobody else."""

import asyncio
import json

import pytest
from mesh.agents.v1 import events_pb2

from chassis.errors import Exhausted
from services.gateway.live.hub import Hub
from services.gateway.live.mailbox import GOING_AWAY, Mailbox
from tests.support.clock import FakeClock
from tests.unit.gateway.live.events import run_finished, told


@pytest.fixture
def hub() -> Hub:
    return Hub(FakeClock(), lambda: 0.5)


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
