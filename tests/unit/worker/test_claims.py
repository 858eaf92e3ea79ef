"""What is claimed, and when nothing is."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.errors import Unavailable
from tests.support.clock import FakeClock
from tests.unit.worker.fakes import FakeDelivery, FakeTasks
from worker.claims import Claims, Owner


def make(tasks: FakeTasks, free: list[int]) -> Claims:
    tasks.alive.add("s1")
    owner = Owner(
        session=lambda: "s1",
        free=lambda: free[0],
        asking=lambda: nullcontext(set()),
        start=lambda *_: None,
        lost=lambda: None,
    )
    stub: Any = tasks
    return Claims(stub, FakeClock(), owner)


async def test_who_holds_more_than_its_slots_claims_nothing():
    """A worker that came back with fewer slots: what it holds has to end first, whatever waits and however urgent."""
    tasks, free = FakeTasks(), [-3]
    claims = make(tasks, free)
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


@pytest.mark.parametrize(("forgets", "waiting"), [(False, 2), (True, 0)])
async def test_what_is_forgotten_during_its_claim_does_not_come_back(forgets: bool, waiting: int):
    """Its queue has it again. Put back with how long it had waited it would have the queues left once more."""
    tasks, fail = FakeTasks(), asyncio.Event()

    async def claim(request: pb.ClaimRequest, **_options: object) -> pb.ClaimResponse:
        tasks.calls.append(("Claim", request))
        await fail.wait()
        raise Unavailable

    tasks.Claim = claim  # type: ignore[assignment, method-assign]  # one that fails when it is let to
    claims = make(tasks, [2])
    running = asyncio.ensure_future(claims.run())
    claims.take_in(FakeDelivery("a", "b"), 0)
    await tasks.until(lambda: tasks.called("Claim"))
    if forgets:
        claims.forget()
    fail.set()
    await tasks.until(lambda: not claims.in_flight)
    assert claims.waiting == waiting
    running.cancel()
    await asyncio.wait([running])
