"""What is claimed, and when nothing is."""

import asyncio
from contextlib import nullcontext

from tests.support.clock import FakeClock
from tests.unit.worker.fakes import FakeDelivery, FakeTasks
from worker.claims import Claims, Owner


async def test_who_holds_more_than_its_slots_claims_nothing():
    """A worker that came back with fewer slots: what it holds has to end first, whatever waits and however urgent."""
    tasks, free = FakeTasks(), [-3]
    tasks.alive.add("s1")
    owner = Owner(
        session=lambda: "s1",
        free=lambda: free[0],
        asking=lambda: nullcontext(set()),
        start=lambda *_: None,
        lost=lambda: None,
    )
    claims = Claims(tasks, FakeClock(), owner)  # type: ignore[arg-type]  # a stub by its methods
    running = asyncio.ensure_future(claims.run())
    claims.take_in(FakeDelivery("a", "b"), 0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert tasks.called("Claim") == []
    free[0] = 1
    claims.wake()
    await tasks.until(lambda: tasks.called("Claim"))
    assert [one.task_id for one in tasks.called("Claim")[0].pointers] == ["a"]
    running.cancel()
    await asyncio.wait([running])
