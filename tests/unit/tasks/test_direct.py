"""How pointers wait on the short way, without a database and a broker."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from chassis.endless import end
from chassis.errors import Unavailable
from services.tasks.model.states import Priority
from services.tasks.model.task import Accepted
from services.tasks.model.work import Queue, WaitingPointer
from services.tasks.operations.direct import Direct, _pointer
from services.tasks.operations.feeder import Feeder
from tests.support.clock import FakeClock

_AT = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """One process with its table, and queues that hold `ready` each. A task begins with the letter of its owner.

    Attributes:
        others: what other processes have put in the table.
        tabled: what was left to the feeder.
        settled: of each commit how many of its pointers were settled.
    """

    def __init__(self) -> None:
        self.ready = 0
        self.published: list[str] = []
        self.others: list[str] = []
        self.tabled: list[str] = []
        self.settled: dict[int, int] = {}
        self.settling = 0
        self.is_slow = False
        self.failures = 0
        self.clock = FakeClock()
        ports: Any = self
        self.kind = SimpleNamespace(max_running=0)
        figures: Any = SimpleNamespace(any_bounds=False, groups=("builtin",), known_kind=lambda _: self.kind)
        self.feeder = Feeder(ports, ports, figures, self.publish, clock=self.clock)
        self.direct = Direct(ports, self.feeder, self.publish, clock=self.clock)

    async def feed(self, queues: Sequence[Queue], _publish: object) -> list[WaitingPointer]:
        (most,) = [queue.most for queue in queues if queue.priority is Priority.NORMAL] or (0,)
        taken, self.others = self.others[:most], self.others[most:]
        self.published += taken
        return [_pointer(_submission(task_id), _accepted(0, task_id)) for task_id in taken]

    async def recall_direct(self, _older_seconds: float) -> int:
        return 0

    async def count_ready(self, _group: str, _priority: Priority) -> int:
        return self.ready

    async def publish(self, bundles: Sequence[Sequence[WaitingPointer]]) -> list[bool]:
        self.published += [one.task_id for bundle in bundles for one in bundle]
        return [True] * len(bundles)

    async def settle_direct(self, counts: Mapping[int, int], refused: Sequence[WaitingPointer]) -> None:
        self.settling += 1
        if self.settling <= self.failures:
            raise Unavailable
        await asyncio.sleep(0.1 if self.is_slow else 0)
        self.settled |= counts
        self.tabled += [one.task_id for one in refused]

    def commit(self, seq: int, *task_ids: str) -> None:
        """Accepts these in one commit, all of them for the short way."""
        submissions: Any = [_submission(task_id) for task_id in task_ids]
        assert self.direct.reserve(submissions) == {*task_ids}
        self.direct.hand(submissions, [_accepted(seq, task_id) for task_id in task_ids])

    async def look(self, ready: int) -> float:
        """The feeder sees so many in each queue. Answers how long it rests then."""
        self.ready = ready
        self.clock.advance(0.03)
        return await self.feeder.feed()


def _submission(task_id: str) -> Any:
    return SimpleNamespace(
        task_id=task_id, group="builtin", priority=Priority.NORMAL, kind="automation", run_at=None, run_after=()
    )


def _accepted(seq: int, task_id: str) -> Accepted:
    task: Any = SimpleNamespace(
        task_id=task_id, priority=Priority.NORMAL, owner_id=task_id[0], attempt=0, traceparent="", created_at=_AT
    )
    return Accepted(task=task, replayed=False, pointer_seq=seq)


@asynccontextmanager
async def sending(world: World) -> AsyncIterator[None]:
    """Publishes what finds room."""
    running = asyncio.ensure_future(world.direct.run())
    try:
        yield
    finally:
        await end([running])


async def until_tabled(world: World, after_seconds: float = 0) -> None:
    """Tidies until something was left to the feeder, once this time has passed."""
    tidying = asyncio.ensure_future(world.direct.tidy())
    await asyncio.sleep(0.1)
    assert not (after_seconds and world.tabled)
    world.clock.advance(after_seconds)
    async with asyncio.timeout(20):
        while not world.tabled:
            await asyncio.sleep(0.01)
    await end([tidying])


async def until_published(world: World, *task_ids: str) -> None:
    """And confirmed."""
    async with asyncio.timeout(20):
        while world.published[-len(task_ids) :] != [*task_ids]:
            await asyncio.sleep(0)


async def a_full_queue() -> World:
    """With nothing that waits for room in it."""
    world = World()
    await world.look(0)
    world.commit(1, *(f"a{number:02}" for number in range(64)))
    await world.look(64)
    return world


async def test_room_is_looked_for_soon_while_something_waits() -> None:
    """Also in a queue that has not moved for long; and a feeder that woke itself would never rest."""
    world = await a_full_queue()
    world.clock.advance(10)
    world.commit(2, "bob")
    assert 0 < await world.look(64) <= 0.02
    assert 0 < await world.look(64) <= 0.02


async def test_of_each_owner_pointers_go_to_the_table_in_their_order() -> None:
    """Also those of two commits, of which the later is settled first."""
    world = await a_full_queue()
    world.commit(2, "x0", "x1")
    world.commit(3, "y0", "x2")
    await world.look(64)
    await world.look(64)
    # Room for one, after which it is the other's turn.
    await world.look(31)
    async with sending(world):
        await until_published(world, "x0")
        await world.direct.close()
    assert [task_id for task_id in world.tabled if task_id[0] == "x"] == ["x1", "x2"]


async def test_what_waits_for_more_than_a_worker_takes_the_long_way() -> None:
    """For a time, for others, for a place of its kind; and everything where the process is about to end."""
    world = World()
    simple = _submission("a0")
    assert world.direct.is_simple(simple)
    for changes in ({"run_at": _AT}, {"run_after": ("b0",)}):
        assert not world.direct.is_simple(cast("Any", SimpleNamespace(**{**vars(simple), **changes})))
    world.kind.max_running = 1
    assert not world.direct.is_simple(simple)
    world.kind.max_running = 0
    await world.direct.close()
    assert not world.direct.is_simple(simple)


async def test_a_process_that_ends_waits_for_what_it_has_published() -> None:
    """Else the rest of the commit would wait for two seconds with it, until another process notices."""
    world = await a_full_queue()
    await world.look(0)
    world.commit(2, *(f"b{number:02}" for number in range(99)))
    async with sending(world):
        await world.direct.close()
    assert world.settled == {1: 64, 2: 99}
    assert world.tabled == ["b96", "b97", "b98"]


async def test_a_process_that_ends_waits_for_what_is_being_settled() -> None:
    """What ends in the middle is as if it had never begun."""
    world = await a_full_queue()
    world.is_slow = True
    async with sending(world):
        tidying = asyncio.ensure_future(world.direct.tidy())
        async with asyncio.timeout(20):
            while not world.settling:
                await asyncio.sleep(0.01)
        await world.direct.close()
        await end([tidying])
    assert world.settled == {1: 64}


async def test_no_more_than_a_queue_moves_waits_here() -> None:
    """Also when many commits were begun while little waited."""
    world = await a_full_queue()
    commits = [[f"b{commit}-{number:03}" for number in range(500)] for commit in range(20)]
    reserved = [world.direct.reserve([_submission(one) for one in task_ids]) for task_ids in commits]
    assert sum(map(len, reserved)) == 10_000
    for seq, task_ids in enumerate(commits, 2):
        world.direct.hand([_submission(one) for one in task_ids], [_accepted(seq, one) for one in task_ids])
    async with sending(world):
        await until_published(world, "a63")
        await until_tabled(world)
    assert len(world.tabled) == 10_000


async def test_a_group_is_clear_while_nothing_of_it_waits_for_room() -> None:
    """What was published and awaits its confirmation stands in nobody's way, and other groups neither."""
    world = await a_full_queue()
    assert world.direct.is_clear("builtin")
    world.commit(2, "bob")
    assert not world.direct.is_clear("builtin")
    assert world.direct.is_clear("other")
    # Room for the one that waits.
    await world.look(0)
    assert world.direct.is_clear("builtin")


async def test_others_have_their_turn_as_soon_as_there_is_room() -> None:
    """Where there was none when the table was polled, it is before those who wait here."""
    world = await a_full_queue()
    world.commit(2, "b1", "b2")
    for _ in range(4):
        await world.look(64)
    world.others = ["cid"]
    world.clock.advance(0.3)
    await world.look(64)
    # For one.
    await world.look(31)
    async with sending(world):
        await world.direct.close()
    assert world.tabled == ["b1", "b2"]
    assert "cid" in world.published


async def test_what_comes_behind_those_who_waited_too_long_waits_in_the_table() -> None:
    """However little waits here now; and the table gets them, although the database is away at first."""
    world = await a_full_queue()
    world.failures = 2
    world.commit(2, "b1", "b2")
    await until_tabled(world, after_seconds=1.3)
    assert world.tabled == ["b1", "b2"]
    assert world.direct.reserve([_submission("b3")]) == frozenset()


async def test_those_who_wait_here_come_before_what_came_behind_them() -> None:
    """From when on all goes to the table, of which this is the first."""
    world = await a_full_queue()
    world.commit(2, "b1")
    world.feeder.hold("builtin", Priority.NORMAL)
    world.others = ["b2"]
    for ready in (64, 64, 64, 31):
        await world.look(ready)
    async with sending(world):
        await until_published(world, "b1")
    assert world.others == ["b2"]


async def test_a_process_that_ends_takes_nothing_more() -> None:
    """However much room there is."""
    world = World()
    await world.look(0)
    assert world.direct.reserve([_submission("ann")]) == {"ann"}
    await world.direct.close()
    assert world.direct.reserve([_submission("ann")]) == frozenset()
