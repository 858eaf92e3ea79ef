"""What begins in an offered slot, on a real database: claimed by the commit that accepts it, or pointed at as ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain

import pytest

from chassis.clock import SystemClock
from chassis.errors import MeshError, NotFound, Unavailable
from services.tasks.model.states import State
from services.tasks.model.work import Claimed
from services.tasks.operations import lobby
from services.tasks.operations.intake import Intake
from services.tasks.operations.offers import Offer, Offers
from tests.integration.tasks.core import Core, draft, success
from tests.integration.tasks.test_direct import opened, rows, until
from tests.integration.tasks.test_feeding import Broker, announce, submit

pytestmark = pytest.mark.postgres


@dataclass
class Offered:
    """One worker's offer to a process, and what came on it."""

    core: Core
    session_id: str
    offers: Offers
    offer: Offer
    intake: Intake
    broker: Broker

    async def submit(self, **changes: object) -> str:
        return (await self.intake.submit(draft(**changes))).accepted.task.task_id

    async def came(self, seconds: float = 0.05) -> list[Claimed]:
        """What was sent since the last look, and in so many seconds."""
        sent: list[Claimed] = []
        try:
            async with asyncio.timeout(seconds):
                async for claimed, _, _ in self.offer.read():
                    sent += claimed
        except TimeoutError:
            return sent
        return sent

    async def state(self, task_id: str) -> tuple[State, int]:
        task = await self.core.queries.get(task_id, "ann")
        return task.state, task.attempt


@asynccontextmanager
async def offering(core: Core, most: int = 10) -> AsyncIterator[Offered]:
    session_id = await core.open_session()
    broker = Broker(core)
    offers = Offers(core.store, core.desk.hand_back, SystemClock(), doubt_seconds=0.5)
    async with opened(core, broker, offers=offers) as (intake, _), offers.open(session_id) as offer:
        offer.hear(most, 0)
        yield Offered(core, session_id, offers, offer, intake, broker)


async def test_it_is_claimed_by_the_commit_that_accepts_it(core: Core) -> None:
    """Held by its session at its first attempt, told in order, and pointed at by nobody; its result ends it."""
    async with offering(core) as it:
        task_id = await it.submit(payload=b'{"a":1}', traceparent="00-a", timeout_seconds=7)
        (claimed,) = await it.came()
        assert await rows(core) == []
        assert await it.state(task_id) == (State.RUNNING, 1)
        assert await core.event_types(task_id) == ["queued", "started"]
        news = await core.sql("SELECT type, sequences, attempts, task_ids FROM tasks.news ORDER BY seq")
        assert [tuple(row) for row in news] == [("queued", [1], [0], [task_id]), ("started", [2], [1], [task_id])]
        (live,) = await core.sql(
            "SELECT session_id, enqueued_at, timeout_at - started_at AS most, started_at FROM tasks.task_live"
        )
        assert (live["session_id"], live["enqueued_at"], live["most"].total_seconds()) == (it.session_id, None, 22.0)
        assert await core.finish(it.session_id, success(task_id)) == []
        assert await it.state(task_id) == (State.SUCCEEDED, 1)
    assert claimed == Claimed(
        task_id=task_id,
        attempt=1,
        kind="automation",
        payload=b'{"a":1}',
        owner_id="ann",
        timeout_seconds=7,
        max_attempts=3,
        traceparent="00-a",
    )
    assert it.broker.taken == []


async def test_what_finds_no_slot_is_published(core: Core) -> None:
    """The urgent ones find theirs first, all in one commit; none of them waits in the figures then."""
    async with offering(core, most=2) as it:
        receipts = await it.intake.submit_many([draft(priority=priority) for priority in (1, 4, 2, 3)])
        began = {one.task_id for one in await it.came()}
        ids = [receipt.accepted.task.task_id for receipt in receipts]
        assert began == {ids[1], ids[3]}
        await until("the others are published", lambda: len(it.broker.taken) == 2)
        assert {one.task_id for one in it.broker.taken} == {ids[0], ids[2]}
    assert core.figures.count_waiting("builtin") == 2


async def test_what_finds_no_slot_waits_for_the_next(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many submit at once as there are slots: all begin there, and nobody needs the broker."""
    monkeypatch.setattr(lobby, "PATIENCE_SECONDS", 20)

    async def submit_one_by_one(it: Offered, count: int) -> list[str]:
        return [await it.submit() for _ in range(count)]

    async def work(it: Offered, began: list[str]) -> None:
        while True:
            began += [one.task_id for one in await it.came(0.002)]
            it.offer.hear(len(began) + 10, len(began))

    began: list[str] = []
    async with offering(core) as it, asyncio.timeout(20):
        working = asyncio.ensure_future(work(it, began))
        # More have found one before than will wait.
        accepted = [await submit_one_by_one(it, 40)]
        accepted += await asyncio.gather(*(submit_one_by_one(it, 5) for _ in range(30)))
        while len(began) < 190:
            await asyncio.sleep(0.01)
        working.cancel()
        assert sorted(chain(*accepted)) == sorted(began)
        assert it.broker.taken == []


@pytest.mark.parametrize("end", ["lost", "drain"])
async def test_a_session_that_is_over_begins_nothing(core: Core, end: str) -> None:
    """Its task is published in its place, and its stream ends with a word."""
    async with offering(core) as it:
        if end == "lost":
            await core.lose(it.session_id)
        else:
            await core.desk.close_session(it.session_id, drain=True)
        task_id = await it.submit()
        await until("it is published", lambda: [one.task_id for one in it.broker.taken] == [task_id])
        assert await it.state(task_id) == (State.QUEUED, 0)
        assert await core.event_types(task_id) == ["queued"]
        with pytest.raises(NotFound):
            await it.came()


async def test_what_has_a_bound_a_time_or_prerequisites_begins_nowhere(core: Core) -> None:
    """The bound was announced to another process; the slots stay free for others."""
    async with offering(core, most=1) as it:
        first = await it.submit()
        later = await it.submit(run_after=(first,))
        assert [one.task_id for one in await it.came()] == [first]
        it.offer.hear(2, 1)
        await core.sql("UPDATE tasks.kind SET max_running = 1")
        bounded = await it.submit()
        assert await rows(core) == [(bounded, "automation")]
        assert (await it.state(later), await it.state(bounded)) == ((State.SCHEDULED, 0), (State.QUEUED, 0))
        await core.sql("UPDATE tasks.kind SET max_running = 0")
        after = await it.submit()
        assert [one.task_id for one in await it.came()] == [after]


async def test_a_repeated_submission_takes_no_slot(core: Core) -> None:
    """Neither one of its key nor a twin, whether they come in one commit or later."""
    async with offering(core, most=2) as it:
        ids = await asyncio.gather(*(it.submit(idempotency_key="k") for _ in range(5)))
        assert len(set(ids)) == 1
        twins = await asyncio.gather(*(it.submit(unique_key="u") for _ in range(5)))
        assert {one.task_id for one in await it.came()} == {ids[0], twins[0]}
        assert (len(set(twins)), it.offer.room) == (1, 0)


async def test_who_leaves_before_the_commit_leaves_a_free_slot(core: Core) -> None:
    """It was reserved for nobody else."""
    async with offering(core, most=3) as it:
        gone = it.intake.begin(draft())
        assert gone is not None
        gone.cancel()
        await it.submit()
        assert len(await it.came()) == 1
        assert it.offer.room == 2


async def test_one_that_fails_gives_all_slots_back(core: Core) -> None:
    """All or none of them are accepted; the slots are there for the next."""
    async with offering(core, most=2) as it:
        with pytest.raises(MeshError):
            await it.intake.submit_many([draft(), draft(run_after=("task_01ARZ3NDEKTSV4RRFFQ69G5FAV",))])
        assert (it.offer.room, await it.came()) == (2, [])


async def test_what_could_not_be_sent_is_queued_again(core: Core) -> None:
    """Its stream ended between the commit and the push: another worker gets it, and no attempt is lost to it."""
    async with offering(core) as it:
        task_id = await it.submit()
        assert await it.state(task_id) == (State.RUNNING, 1)
    assert await it.offers.give_back() is False
    assert await core.event_types(task_id) == ["queued", "started", "queued"]
    other = await core.open_session()
    (claimed,) = await core.claim(other, task_id, attempt=1)
    assert claimed.attempt == 2


async def test_a_commit_in_doubt_leaves_nothing_with_the_session(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done, and nobody heard of it: the worker would wait for what never comes."""
    async with offering(core, most=1) as it:
        accept = core.store.accept

        async def lose_the_answer(*arguments: object) -> None:
            await accept(*arguments)  # type: ignore[arg-type]  # whatever they are
            raise Unavailable

        monkeypatch.setattr(core.store, "accept", lose_the_answer)
        with pytest.raises(Unavailable):
            await it.submit()
        monkeypatch.undo()
        await it.offers.give_back()
        (row,) = await core.sql("SELECT state, session_id FROM tasks.task_live")
        assert (row["state"], row["session_id"], it.offer.room) == (State.QUEUED, None, 1)
        # The first commit that is answered fills no slot, the next one does.
        assert await it.state(await it.submit()) == (State.QUEUED, 0)
        assert await it.state(await it.submit()) == (State.RUNNING, 1)


async def test_while_a_backlog_stays_who_submits_is_held(core: Core) -> None:
    """Nothing of it is written before; an urgent one, before whom nothing waits, goes on. Then each is there once."""
    async with offering(core) as it:
        await it.intake.submit_many([draft() for _ in range(200)])
        began = await it.came()
        await core.finish(it.session_id, *[success(one.task_id) for one in began])
        await core.figures.refresh("one")
        waiting = core.figures._waiting["builtin"]
        assert waiting.rate is not None
        waiting.rate = replace(waiting.rate, mean_run_seconds=0.001)
        waiting.congestion.seconds = 60
        held = [asyncio.ensure_future(it.submit(owner_id="bob")) for _ in range(40)]
        await it.submit(owner_id="eve", priority=4)
        await asyncio.sleep(0.1)
        owners = "SELECT owner_id, count(*)::int AS tasks FROM tasks.task GROUP BY owner_id"
        assert {row["owner_id"]: row["tasks"] for row in await core.sql(owners)} == {"ann": 200, "eve": 1}
        waiting.congestion.seconds = 0
        assert len(set(await asyncio.gather(*held))) == 40
        assert {row["owner_id"]: row["tasks"] for row in await core.sql(owners)} == {"ann": 200, "eve": 1, "bob": 40}


async def test_an_attempt_begins_when_it_begins(core: Core) -> None:
    """Not with its transaction, which may have waited for another of the same key."""
    async with offering(core) as it:
        await it.submit(unique_key="u")
        first, second = await it.submit(unique_key="v"), await it.submit()
        found = await core.sql(
            "SELECT l.task_id FROM tasks.task_live l JOIN tasks.task t USING (task_id) WHERE started_at > created_at"
        )
        assert {row["task_id"] for row in found} >= {first, second}


async def test_a_deadline_is_looked_at_when_it_begins(core: Core) -> None:
    """It may have passed by the commit that accepts it; a claim sees that."""
    async with offering(core) as it:
        task_id = await it.submit(deadline_at=datetime.now(UTC) + timedelta(hours=1))
        await until("it is published", lambda: [one.task_id for one in it.broker.taken] == [task_id])


async def test_nobody_overtakes_those_who_wait(core: Core) -> None:
    """While something waits in the table, what is accepted waits behind it, however many slots are free."""
    async with offering(core) as it:
        await submit(core, 100)
        await it.broker.feed()
        assert len(it.broker.taken) == 64
        await it.submit(owner_id="bob")
        assert await it.came() == []


async def test_nobody_overtakes_those_who_wait_in_their_process(core: Core) -> None:
    """Their queue is full; what is accepted then waits behind them."""
    async with offering(core, most=0) as it:
        await it.intake.submit_many([draft() for _ in range(100)])
        await until("the queue is full", lambda: len(it.broker.taken) == 64)
        it.offer.hear(10, 0)
        await it.submit()
        assert await it.came() == []


async def test_an_unknown_session_offers_nothing(core: Core) -> None:
    offers = Offers(core.store, core.desk.hand_back, SystemClock(), doubt_seconds=0.5)
    with pytest.raises(NotFound):
        async with offers.open("ses_01ARZ3NDEKTSV4RRFFQ69G5FAV"):
            pytest.fail("it is open")


async def test_an_offer_is_for_what_its_worker_can_do(core: Core) -> None:
    """What only others of its group do is published."""
    await announce(core, max_running=0)
    async with offering(core) as it:
        other, mine = await it.submit(kind="other"), await it.submit()
        assert [one.task_id for one in await it.came()] == [mine]
        await until("the other is published", lambda: [one.task_id for one in it.broker.taken] == [other])
