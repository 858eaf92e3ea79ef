import asyncio

import pytest

from services.gateway.identity import administrator
from services.gateway.identity.operations import first_admin
from tests.unit.gateway.identity.world import PASSWORD, World


async def test_the_admin_waits_for_the_store(monkeypatch: pytest.MonkeyPatch):
    """While the store is away it tries again, and the account is there afterwards."""
    world = World()
    world.memory.away = True
    monkeypatch.setattr(administrator, "_RETRY_EVERY_SECONDS", 0)
    trying = asyncio.ensure_future(administrator.keep_trying(world.identity, first_admin("root", "", PASSWORD)))
    while world.memory.reads < 3:
        await asyncio.sleep(0)
    assert not trying.done()
    world.memory.away = False
    await trying
    assert (await world.identity.authenticate(await world.token("root"))).is_admin
