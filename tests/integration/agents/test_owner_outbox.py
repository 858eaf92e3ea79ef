"""Nothing that owners are to be told by webhook is lost or told twice, whoever dies in between."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

import pytest
from mesh.agents.v1 import agents_pb2 as pb
from mesh.agents.v1 import agents_pb2_grpc
from mesh.tasks.v1 import webhooks_pb2, webhooks_pb2_grpc

from chassis import migrations
from chassis.clock import SystemClock
from chassis.config import Postgres
from chassis.database import Database, open_database
from chassis.errors import Conflict, Unavailable
from chassis.messaging.message import Message
from chassis.messaging.outbox import Relay
from services.agents.store.agents import AgentStore
from services.agents.store.telling import Telling
from services.agents.tables import owner_outbox
from services.agents.wire import events, webhooks
from tests.integration.worker.processes import Mesh
from tests.unit.agents.fakes import agent

pytestmark = [pytest.mark.postgres, pytest.mark.rabbit]

Agents: TypeAlias = "agents_pb2_grpc.AgentServiceAsyncStub"
Webhooks: TypeAlias = "webhooks_pb2_grpc.WebhookServiceAsyncStub"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    settings = Postgres(url=database_url)
    await asyncio.to_thread(migrations.upgrade, "agents", settings)
    async with open_database(settings, "agents") as opened:
        yield opened


class Takes:
    """Takes messages, after it was away for some calls."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.taken: list[str] = []

    async def publish_many(self, messages: Sequence[Message]) -> list[bool]:
        if self.away:
            self.away -= 1
            raise Unavailable
        self.taken += [message.id for message in messages]
        return [True] * len(messages)


def _store(database: Database) -> AgentStore:
    telling = Telling(announce=events.announce_agent, tell_owner=webhooks.tell_owner_of_agent, committed=lambda: None)
    return AgentStore(database, telling)


async def test_what_is_told_is_one_commit_with_the_change(database: Database) -> None:
    """A change that is refused leaves nothing to tell; several relays tell the rest once, after an outage."""
    store = _store(database)
    for number in range(3):
        await store.add(agent(f"a{number}"))
    with pytest.raises(Conflict):
        await store.add(agent("a9", name="a0"))
    takes = Takes(away=2)
    relays = [Relay(database, owner_outbox, takes, SystemClock()) for _ in range(2)]
    running = [asyncio.create_task(relay.run()) for relay in relays]
    # Until the rows are gone, not until they are taken: a relay that ends in between would rightly tell them again.
    async with asyncio.timeout(30), database.statement() as driver:
        while await driver.fetchval("SELECT count(*) FROM agents.owner_outbox"):
            await asyncio.sleep(0.02)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert takes.taken == ["a0-1", "a1-1", "a2-1"]


async def _told(hooks: Webhooks, webhook_id: str, count: int) -> list[webhooks_pb2.Delivery]:
    """The deliveries as soon as there are so many."""
    query = webhooks_pb2.ListDeliveriesRequest(webhook_id=webhook_id, limit=200)
    found: list[webhooks_pb2.Delivery] = []
    try:
        async with asyncio.timeout(60):
            while len(found) < count:
                await asyncio.sleep(0.1)
                found = list((await hooks.ListDeliveries(query, wait_for_ready=True)).deliveries)
    except TimeoutError:
        raise AssertionError(f"{len(found)} of {count} were told: {[each.type for each in found]}") from None
    return found


async def test_all_is_told_once_whoever_is_killed(mesh: Mesh, agents: Agents) -> None:
    """Tasks is away when there is something to tell, and agents is killed before it can: both come back."""
    hooks: Webhooks = webhooks_pb2_grpc.WebhookServiceStub(await mesh.channel(mesh.environment["TASKS_ADDRESS"]))
    wish = webhooks_pb2.CreateWebhookRequest(
        owner_id="u1", url="http://127.0.0.1:9/", events=["agent.*", "execution.*"]
    )
    webhook_id = (await hooks.CreateWebhook(wish)).webhook.id
    created = await agents.CreateAgent(pb.CreateAgentRequest(name="Ada", role="Tester", created_by="u1"))
    await agents.UpdateAgent(pb.UpdateAgentRequest(id=created.agent.id, status="active"))
    await _told(hooks, webhook_id, 1)
    await mesh.services["services.tasks"].kill()
    execution = (
        await agents.Execute(pb.ExecuteRequest(agent_ids=[created.agent.id], owner_id="u1"), timeout=60)
    ).execution
    await mesh.services["services.agents"].kill()
    for service in ("services.tasks", "services.agents"):
        await mesh.services[service].start()
    told = await _told(hooks, webhook_id, 4)
    assert Counter(each.type for each in told) == Counter(
        ["agent.created", "execution.started", "agent.execution.completed", "execution.completed"]
    )
    assert {each.event_id for each in told} == {f"{created.agent.id}-1", *(f"{execution.id}-{n}" for n in (1, 2, 3))}
