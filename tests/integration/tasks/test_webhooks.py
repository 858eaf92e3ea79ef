"""Webhooks over a real database: what is written with the ends of tasks, and how it is taken, settled and shown."""

import pytest
from standardwebhooks import Webhook as Verifier

from services.tasks.model.webhooks import HookWish
from tests.integration.tasks.core import Core, success
from tests.integration.tasks.couriers import couriers
from tests.integration.tasks.receiver import receiving

pytestmark = pytest.mark.postgres


async def test_the_end_of_a_task_is_told(core: Core) -> None:
    """X."""
    async with receiving() as receiver, couriers(core):
        webhook = await core.webhooks.create("ann", HookWish(url=receiver.url), "")
        session = await core.open_session()
        task_id = await core.run(session)
        await core.finish(session, success(task_id))
        (got,) = await receiver.wait_for(1)
    Verifier(webhook.secret).verify(got.body, got.headers)
    assert got.document["event"] == "task.completed"
    assert got.event_id.startswith(f"evt_{task_id}_")
