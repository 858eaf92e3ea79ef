"""Everything is killed, stopped, cut off and wiped while tasks are submitted: each accepted task ends once and rightly.

MESH_FAULT_SEED names the run to have again.
"""

import asyncio
import os
import random
from pathlib import Path

import grpc.aio
import pytest
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.logging import get_logger
from tests.support.client import Client, client
from tests.support.faults.audit import Audit
from tests.support.faults.endpoint import Endpoint
from tests.support.faults.ledger import Ledger, Submitter
from tests.support.faults.plan import Fault, draw
from tests.support.faults.stage import Stage, staged
from tests.support.faults.watchers import Watchers

log = get_logger(__name__)

pytestmark = [pytest.mark.mesh]

_SUBMITTERS = 6
_SETTLE_SECONDS = 120.0
# After the ends themselves.
_TOLD_SECONDS = 60.0
_WANTED = {"effect.quick", "outside.quick"}


async def _run(stage: Stage, faults: list[Fault], seed: int) -> tuple[list[str], str]:
    """Submits while everything fails; returns what is wrong afterwards, and the figures of the run."""
    ledger = Ledger()
    async with client(stage.mesh.url) as user, client(stage.door) as watching, Endpoint(seed).open() as endpoint:
        await user.sign_up()
        watching.token = user.token
        await _until_known(stage)
        await endpoint.subscribe(user)
        watchers = Watchers(watching, ledger)
        background = [asyncio.create_task(watchers.watch()), asyncio.create_task(endpoint.suffer())]
        await _submit_under(stage, faults, seed, user, ledger)
        async with grpc.aio.insecure_channel(stage.mesh.env["TASKS_ADDRESS"]) as channel:
            audit = Audit(channel, ledger, stage.marks)
            late = await audit.wait_for_ends(_SETTLE_SECONDS)
            unheard = await watchers.wait_for_ends(_TOLD_SECONDS)
            await endpoint.wait_for(ledger.accepted.values(), _TOLD_SECONDS)
            unheard += await _end(background)
            wrong, ends = await audit.find_faults(str(user.user["id"]), watchers.accounts, endpoint)
    figures = f"{len(ledger.accepted)} accepted, {dict(ends)}, {len(late)} late, answers {dict(ledger.statuses)}"
    return wrong + unheard, f"{figures}, {endpoint.posts} webhooks posted"


async def _end(background: list[asyncio.Task[None]]) -> list[str]:
    """Ends what goes on for ever, and says what had ended by itself."""
    for one in background:
        one.cancel()
    await asyncio.wait(background)
    return [f"it should go on for ever: {one.exception()!r}" for one in background if not one.cancelled()]


async def _submit_under(stage: Stage, faults: list[Fault], seed: int, user: Client, ledger: Ledger) -> None:
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(_SUBMITTERS):
            submitter = Submitter(user, ledger, f"s{number}", seed)
            group.create_task(submitter.submit(over, every_seconds=0.15))
        await stage.suffer(faults)
        over.set()


async def _until_known(stage: Stage) -> None:
    """Waits until the workers have announced their kinds."""
    async with grpc.aio.insecure_channel(stage.mesh.env["TASKS_ADDRESS"]) as channel:
        stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
        async with asyncio.timeout(60):
            while not set((await stub.GetSummary(tasks_pb2.GetSummaryRequest())).known_kinds) >= _WANTED:
                await asyncio.sleep(0.2)


async def _prove(directory: Path, faults: list[Fault], seed: int) -> None:
    async with staged(directory) as stage:
        wrong, figures = await _run(stage, faults, seed)
        plan = "\n".join(map(str, faults))
        log.info("A run with faults", seed=seed, figures=figures)
        assert not wrong, f"seed {seed}: {figures}\n" + "\n".join(wrong[:40]) + f"\n{plan}\n{stage.logs()}"


@pytest.mark.timeout(900)
async def test_nothing_accepted_is_lost(tmp_path: Path):
    """A minute of faults, the same ones each time."""
    seed = int(os.environ.get("MESH_FAULT_SEED", "1"))
    await _prove(tmp_path, draw(seed, 40, every_seconds=1.35, everything=False), seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_nothing_accepted_is_lost_in_the_long_run(tmp_path: Path):
    """Ten minutes of faults, others each time."""
    seed = int(os.environ.get("MESH_FAULT_SEED", random.randrange(10**6)))
    await _prove(tmp_path, draw(seed, 600, every_seconds=2.5, everything=True), seed)
