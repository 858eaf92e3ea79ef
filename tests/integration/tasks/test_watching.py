"""Streams to workers: stops are pushed, a break shortens the lease, a word does not."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from chassis.errors import NotFound, Unavailable
from services.tasks.model.states import Due, State
from services.tasks.model.work import Opening, Pointer
from services.tasks.operations.desk import LEASE_SECONDS
from services.tasks.operations.watches import BROKEN_LEASE_SECONDS
from tests.integration.tasks.core import KIND, Core, open_core

pytestmark = pytest.mark.postgres


async def lease_seconds(core: Core, session: str) -> float:
    """What is left of it."""
    rows = await core.sql(
        "SELECT extract(epoch FROM lease_until - clock_timestamp())::float8 FROM tasks.worker_session"
        " WHERE session_id = $1",
        session,
    )
    left: float = rows[0][0]
    return left


async def test_a_stop_is_pushed_once(core: Core) -> None:
    """The commit says that there is something to push; what was said is not said again."""
    session = await core.open_session()
    task_id = await core.run(session)
    async with core.watches.open(session) as stops:
        assert await anext(stops) == ()
        await core.queries.cancel(task_id, "")
        assert Due.STOPS in core.due
        await core.watches.push()
        async with asyncio.timeout(20):
            assert await anext(stops) == [Pointer(task_id=task_id, attempt=1)]
        await core.watches.push()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(stops)


async def test_a_stop_that_another_process_was_asked_for_is_pushed(core: Core, tasks_url: str) -> None:
    """The next look finds it."""
    session = await core.open_session()
    task_id = await core.run(session)
    async with open_core(tasks_url) as other, core.watches.open(session) as stops:
        await anext(stops)
        await other.queries.cancel(task_id, "")
        await core.watches.push()
        async with asyncio.timeout(20):
            assert await anext(stops) == [Pointer(task_id=task_id, attempt=1)]


async def test_a_stream_that_breaks_shortens_the_lease(core: Core) -> None:
    """And what the session held is queued again by the next sweep after that."""
    await core.upkeep.sweep()
    session = await core.open_session()
    task_id = await core.run(session)
    async with core.watches.open(session):
        assert await lease_seconds(core, session) > BROKEN_LEASE_SECONDS
    assert core.watches.awake.is_set()
    await core.watches.push()
    assert await lease_seconds(core, session) <= BROKEN_LEASE_SECONDS
    # Where this machine was slow, nobody had looked for so long that the lease is a whole one again.
    async with asyncio.timeout(LEASE_SECONDS + 10):
        while (await core.queries.get(task_id, "")).state is not State.QUEUED:
            await core.upkeep.sweep()
            await asyncio.sleep(0.05)


async def test_a_worker_that_came_back_keeps_its_lease(core: Core, tasks_url: str) -> None:
    """Its newer stream, at another process, is the one that counts."""
    session = await core.open_session()
    async with AsyncExitStack() as stack, open_core(tasks_url) as other:
        async with core.watches.open(session):
            await stack.enter_async_context(other.watches.open(session))
        await core.watches.push()
        assert await lease_seconds(core, session) > BROKEN_LEASE_SECONDS


async def test_a_process_that_goes_away_shortens_nothing(core: Core) -> None:
    """It ends its streams with a word, and takes no new ones."""
    session = await core.open_session()
    async with core.watches.open(session) as stops:
        await anext(stops)
        await core.watches.close()
        with pytest.raises(StopAsyncIteration):
            await anext(stops)
    await core.watches.push()
    assert await lease_seconds(core, session) > BROKEN_LEASE_SECONDS
    with pytest.raises(Unavailable):
        async with core.watches.open(session):
            pytest.fail("it is going away")


async def test_a_lost_session_cannot_be_watched(core: Core) -> None:
    """The worker learns of it at once."""
    session = await core.open_session()
    await core.lose(session)
    with pytest.raises(NotFound):
        async with core.watches.open(session):
            pytest.fail("its lease is over")


async def test_a_session_is_resumed_within_its_lease(core: Core) -> None:
    """With what it holds; after the lease, or for an id that is none, there is a new one."""
    opening = Opening(session_id="", worker_name="w", host="", kinds=(KIND,), slots=1, external=True)
    session = await core.desk.open_session(opening)
    task_id = await core.run(session)
    resuming = Opening(
        session_id="", worker_name="w", host="", kinds=(KIND,), slots=2, external=True, resume_session_id=session
    )
    assert await core.desk.open_session(resuming) == session
    assert [held.task_id for held in await core.desk.beat(session)] == [task_id]
    (worker,) = await core.store.read_workers()
    assert (worker.external, worker.slots, worker.running) == (True, 2, 1)
    await core.lose(session)
    assert await core.desk.open_session(resuming) != session
    nonsense = Opening(session_id="", worker_name="w", host="", kinds=(KIND,), slots=2, resume_session_id="ses_\x00")
    assert await core.desk.open_session(nonsense) != session


async def test_a_partial_result_is_kept_until_there_is_a_whole_one(core: Core) -> None:
    """Shown while the task runs, told in its feed, and kept by a task that ends without a result."""
    session = await core.open_session()
    task_id = await core.run(session)
    pointer = Pointer(task_id=task_id, attempt=1)
    assert await core.desk.progress(session, pointer, 0.5, partial=b'{"pages":1}')
    assert await core.desk.progress(session, pointer, 0.6)
    assert (await core.queries.get(task_id, "")).partial == b'{"pages":1}'
    events = await core.queries.list_events(task_id, "", 0, 0)
    assert events[-1].data == b'{"progress":0.5,"partial":{"pages":1}}'
    await core.queries.cancel(task_id, "")
    await core.desk.close_session(session, drain=False)
    task = await core.queries.get(task_id, "")
    assert (task.state, task.partial) == (State.CANCELLED, b'{"pages":1}')
