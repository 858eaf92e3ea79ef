"""Revocation between replicas on a real Postgres, and what happens while it is away."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import insert

from chassis.clock import SystemClock
from chassis.database import Database
from chassis.errors import Unavailable
from deploy.local.stores.postgres import Postgres
from services.gateway.identity.cache import Invalidation, VerifiedCredentials
from services.gateway.identity.model import BadCredential
from services.gateway.identity.operations import Identity, Ports
from services.gateway.identity.store import ApiKeyStore, ChangeStore, SessionStore, UserStore
from services.gateway.identity.tables import credential_changes
from tests.unit.gateway.identity.memory import PlainPasswords
from tests.unit.gateway.identity.world import PASSWORD, signatures

pytestmark = pytest.mark.postgres


class Replica:
    """One gateway's identity, its news arriving by themselves."""

    def __init__(self, database: Database) -> None:
        clock = SystemClock()
        self.cache = VerifiedCredentials(clock, capacity=100)
        self.invalidation = Invalidation(ChangeStore(database), self.cache, clock)
        ports = Ports(
            users=UserStore(database),
            sessions=SessionStore(database),
            api_keys=ApiKeyStore(database),
            passwords=PlainPasswords(),
            signatures=signatures(),
        )
        self.identity = Identity(ports, self.cache, clock, access_seconds=1800, refresh_seconds=86400)

    async def key(self) -> str:
        """A key of a fresh user."""
        await self.identity.register(username="ann_doe", email="ann@example.com", password=PASSWORD)
        tokens = await self.identity.login(username="ann_doe", password=PASSWORD)
        principal = await self.identity.authenticate(tokens.access_token)
        return (await self.identity.create_key(principal, name="laptop")).plaintext

    async def until_forgotten(self, key: str) -> None:
        """Returns when memory no longer knows the key."""
        while self.identity.recall(key) is not None:
            await asyncio.sleep(0.01)


@pytest.fixture
async def here(database: Database) -> Replica:
    return Replica(database)


@pytest.fixture
async def there(database: Database) -> AsyncIterator[Replica]:
    replica = Replica(database)
    await replica.invalidation.poll()
    running = asyncio.ensure_future(replica.invalidation.run())
    yield replica
    running.cancel()
    await asyncio.wait([running])


async def test_a_revoked_key_ends_on_every_replica_by_itself(here: Replica, there: Replica):
    """The other replica hears of it without being asked; a second is promised, a busy machine is given time besides."""
    key = await here.key()
    principal = await there.identity.authenticate(key)
    await here.identity.revoke_key(principal, principal.key_id)
    async with asyncio.timeout(5.0):
        await there.until_forgotten(key)
    with pytest.raises(BadCredential):
        await there.identity.authenticate(key)


async def test_news_of_slow_transactions_are_not_missed(database: Database):
    """A change that was written before another and committed after it is still seen."""
    feed = ChangeStore(database)
    horizon = (await feed.since(0)).horizon
    async with database.transaction() as slow:
        await slow.execute(insert(credential_changes).values(subject="slow"))
        async with database.transaction() as fast:
            await fast.execute(insert(credential_changes).values(subject="fast"))
        first = await feed.since(horizon)
    second = await feed.since(first.horizon)
    third = await feed.since(second.horizon)
    assert [change.subject for change in first.changes] == ["fast"]
    assert "slow" in [change.subject for change in second.changes]
    assert third.changes == ()


async def test_postgres_away(here: Replica, there: Replica, postgres_server: Postgres):
    """Warm credentials go on, unknown ones are 503 and not 401, and news of the meantime arrive afterwards."""
    key = await here.key()
    await there.identity.authenticate(key)
    postgres_server.stop()
    assert (await there.identity.authenticate(key)).username == "ann_doe"
    with pytest.raises(Unavailable) as away:
        await here.identity.authenticate(key)
    assert away.value.retry_after_seconds
    with pytest.raises(BadCredential):
        await here.identity.authenticate(key[:-1] + "~")
    postgres_server.start()
    principal = await here.identity.authenticate(key)
    await here.identity.revoke_key(principal, principal.key_id)
    async with asyncio.timeout(30.0):
        await there.until_forgotten(key)
