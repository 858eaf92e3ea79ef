"""Idempotency keys of webhooks, over a real database."""

import asyncio

import pytest

from chassis.errors import Conflict, Exhausted
from services.tasks.model.webhooks import HookWish
from tests.integration.tasks.core import Core, open_webhooks

pytestmark = pytest.mark.postgres


async def test_one_key_makes_one_webhook_however_many_race(core: Core) -> None:
    """All are shown the same secret; another request with the key, or a task's key, is a conflict."""
    wish = HookWish(url="https://example.com/hook")
    made = await asyncio.gather(*(core.webhooks.create("ann", wish, "", "k") for _ in range(8)))
    assert len({(one.webhook_id, one.secret) for one in made}) == 1
    assert len(await core.webhooks.list_webhooks("ann")) == 1
    assert (await core.webhooks.create("bob", wish, "", "k")).webhook_id != made[0].webhook_id
    await core.submit(idempotency_key="t")
    for key, url in (("k", "https://example.com/other"), ("t", "https://example.com/hook")):
        with pytest.raises(Conflict, match="IDEMPOTENCY_MISMATCH"):
            await core.webhooks.create("ann", HookWish(url=url), "", key)
    with pytest.raises(Conflict, match="IDEMPOTENCY_MISMATCH"):
        await core.submit(idempotency_key="k")


async def test_a_key_is_free_again_when_nothing_was_made(core: Core) -> None:
    """What was refused leaves no key; one of a deleted webhook makes no second."""
    webhooks = open_webhooks(core.store, core.post, most_per_owner=1)
    first = await webhooks.create("ann", HookWish(url="https://example.com/1"), "", "one")
    with pytest.raises(Exhausted):
        await webhooks.create("ann", HookWish(url="https://example.com/2"), "", "two")
    await webhooks.delete(first.webhook_id, "ann")
    await webhooks.create("ann", HookWish(url="https://example.com/2"), "", "two")
    with pytest.raises(Conflict, match="IDEMPOTENCY_MISMATCH"):
        await webhooks.create("ann", HookWish(url="https://example.com/1"), "", "one")
