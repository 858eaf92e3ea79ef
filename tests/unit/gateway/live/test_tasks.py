"""The feed of tasks: its frames, and what is looked up where the bus was silent."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from mesh.tasks.v1 import tasks_pb2

from chassis.errors import MeshError, NotFound, Unavailable
from services.gateway.live.frames import Frame
from services.gateway.live.hub import Hub
from services.gateway.live.mailbox import MISSED, Mailbox
from services.gateway.live.order import HOLD_SECONDS
from services.gateway.live.rooms import EVERYBODY
from services.gateway.live.tasks import Tasks
from services.gateway.live.trail import Trail
from services.gateway.views import stamp_of
from tests.support.clock import FakeClock
from tests.unit.gateway.live.events import task_changed

LIFE = ("queued", "started", "progress", "succeeded")


class Records:
    """The tasks service: tasks of u1 and the types of their events; `failure` is raised by everything."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.events: dict[str, list[str]] = {}
        self.failure: MeshError | None = None
        # Of tasks that are no news; all others are of now.
        self.created: dict[str, datetime] = {}
        self.asked = 0
        # By method, what happens once between an answer and its arrival.
        self.meanwhile: dict[str, Callable[[], None]] = {}

    async def GetTask(self, request: Any) -> Any:  # noqa: N802 - the contract's name
        self._ask(request.id)
        return tasks_pb2.GetTaskResponse(task=self.task(request.id))

    def task(self, task_id: str) -> tasks_pb2.Task:
        ended = "succeeded" in self.events[task_id]
        return tasks_pb2.Task(
            id=task_id,
            kind="automation",
            owner_id="u1",
            state=tasks_pb2.STATE_SUCCEEDED if ended else tasks_pb2.STATE_RUNNING,
            result=b'{"ok":true}' if ended else b"",
            created_at=stamp_of(self.created.get(task_id, self._clock.now())),
        )

    async def ListEvents(self, request: Any) -> Any:  # noqa: N802 - the contract's name
        self._ask(request.id)
        events = [
            tasks_pb2.Event(sequence=number, type=kind, attempt=1, data=b"{}")
            for number, kind in enumerate(self.events[request.id], start=1)
        ]
        self._happen("ListEvents")
        return tasks_pb2.ListEventsResponse(events=[event for event in events if event.sequence > request.since])

    async def ListTasks(self, request: Any) -> Any:  # noqa: N802 - the contract's name
        if self.failure is not None:
            raise self.failure
        page = list(self.events)[request.offset : request.offset + request.limit]
        tasks = [self.task(task_id) for task_id in page]
        self._happen("ListTasks")
        return tasks_pb2.ListTasksResponse(tasks=tasks, total=len(self.events))

    def _happen(self, method: str) -> None:
        if method in self.meanwhile:
            self.meanwhile.pop(method)()

    def _ask(self, task_id: str) -> None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        if task_id not in self.events:
            raise NotFound("Task not found")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def records(clock: FakeClock) -> Records:
    return Records(clock)


@pytest.fixture
def hub(records: Records, clock: FakeClock) -> Hub:
    stub: Any = records
    made = Hub(clock, Tasks(stub))
    made.suspect()
    return made


def told(mailbox: Mailbox) -> list[tuple[str, int]]:
    frames = [json.loads(frame.text) for frame in mailbox._frames]
    return [(frame["type"], frame["sequence"]) for frame in frames]


WHOLE = [(kind, number) for number, kind in enumerate(LIFE, start=1)]


async def test_a_frame_says_it_all(hub: Hub):
    """What, of which task, in which state, and the result with success."""
    with hub.joined("u1") as mailbox:
        for number, kind in enumerate(LIFE, start=1):
            hub.tell(task_changed(number, kind))
        frames = [json.loads(frame.text) for frame in mailbox._frames]
    assert [frame["status"] for frame in frames] == ["queued", "running", "running", "completed"]
    assert set(frames[0]) == {"type", "task_id", "task_type", "status", "sequence", "attempt", "at", "data"}
    assert frames[3]["result"] == {"ok": True}
    assert [frame.passing for frame in mailbox._frames] == [False, False, True, False]


async def test_only_the_owner_and_administrators_hear(hub: Hub):
    """Whoever watches everybody hears what anybody's tasks do."""
    with hub.joined("u1") as mine, hub.joined("u2") as others, hub.joined(EVERYBODY) as all_of_them:
        hub.tell(task_changed(1, "queued"))
        hub.tell(task_changed(1, "queued", owner="u3", task_id="t3"))
    assert (len(mine._frames), len(others._frames), len(all_of_them._frames)) == (1, 0, 2)


async def test_the_past_comes_from_the_records_as_the_bus_would_have_told_it(
    hub: Hub, records: Records, clock: FakeClock
):
    """The first event that is heard of a task is not its first: those before it come first."""
    records.events["t1"] = list(LIFE)
    with hub.joined("u1") as mailbox:
        hub.tell(task_changed(3))
        clock.advance(HOLD_SECONDS)
        await hub.fill()
        assert told(mailbox) == WHOLE
        assert json.loads(mailbox._frames[-1].text)["result"] == {"ok": True}
        hub.tell(task_changed(4, "succeeded"))
        assert told(mailbox) == WHOLE


async def test_a_task_that_was_done_while_the_broker_was_away_is_told(hub: Hub, records: Records, clock: FakeClock):
    """Nothing was heard of it at all."""
    with hub.joined("u1") as mailbox:
        clock.advance(60)
        records.events["t1"] = list(LIFE)
        hub.suspect()
        await hub.fill()
        assert told(mailbox) == WHOLE


@pytest.mark.parametrize("method", ["ListTasks", "ListEvents"])
async def test_what_is_lost_during_a_look_is_looked_up_too(hub: Hub, records: Records, clock: FakeClock, method: str):
    """The broker may be away again before the records have answered what was lost the first time."""
    with hub.joined("u1") as mailbox:
        if method == "ListEvents":
            records.events["t1"] = ["queued"]
            hub.tell(task_changed(1, "queued"))

        def lose_again() -> None:
            records.events["t1"] = list(LIFE)
            hub.suspect()

        hub.suspect()
        records.meanwhile[method] = lose_again
        for _ in range(2):
            await hub.fill()
            clock.advance(1)
        assert told(mailbox) == WHOLE


async def test_sockets_of_which_too_much_may_be_missing_are_closed(hub: Hub, records: Records, clock: FakeClock):
    """Who connects again says what it has seen; others hear on. A long history is no reason."""
    records.events = {f"t{number}": list(LIFE) for number in range(5000)}
    records.created = dict.fromkeys(records.events, clock.now())
    clock.advance(60)
    with hub.joined("u1") as mailbox:
        hub.suspect()
        await hub.fill()
        assert mailbox.ending is None
        records.created = {}
        hub.suspect()
        await fill_later(hub, clock)
        assert mailbox.ending == MISSED
    with hub.joined("u1") as mailbox:
        await fill_later(hub, clock)
        assert mailbox.ending is None


async def fill_later(hub: Hub, clock: FakeClock) -> None:
    clock.advance(1)
    await hub.fill()


@pytest.mark.parametrize("lost_twice", [True, False])
async def test_what_comes_during_a_look_waits_for_the_next(
    hub: Hub, records: Records, clock: FakeClock, lost_twice: bool
):
    """The records may have answered before what it waits for was recorded."""
    with hub.joined("u1") as mailbox:
        records.events["t1"] = ["queued"]
        hub.tell(task_changed(1, "queued"))

        def go_on() -> None:
            records.events["t1"] = list(LIFE)
            if lost_twice:
                hub.suspect()
            hub.tell(task_changed(3))

        hub.suspect()
        records.meanwhile["ListEvents"] = go_on
        await hub.fill()
        assert told(mailbox) == WHOLE[:1]
        await fill_later(hub, clock)
        assert told(mailbox) == WHOLE


async def test_what_was_given_up_is_looked_up_no_more(hub: Hub, records: Records, clock: FakeClock):
    """Its sockets have ended, and who comes later is told from the records."""
    with hub.joined("u1") as mailbox:
        hub.tell(task_changed(3))
        records.failure = Unavailable("no")
        for _ in range(35):
            await fill_later(hub, clock)
        assert mailbox.ending == MISSED
    asked = records.asked
    with hub.joined("u1") as mailbox:
        for _ in range(70):
            await fill_later(hub, clock)
        assert mailbox.ending is None
    assert records.asked == asked


async def test_a_requeued_task_goes_on(hub: Hub):
    """After its end there may be more, and what comes twice is told once."""
    with hub.joined("u1") as mailbox:
        for number, kind in ((1, "queued"), (2, "failed"), (2, "failed"), (3, "queued"), (4, "started")):
            hub.tell(task_changed(number, kind))
        assert told(mailbox) == [("queued", 1), ("failed", 2), ("queued", 3), ("started", 4)]


async def test_what_nobody_watches_is_not_remembered(hub: Hub, records: Records):
    """However much happens."""
    with hub.joined("u2"):
        for number in range(100):
            hub.tell(task_changed(1, "queued", task_id=f"t{number}"))
        assert hub._order.unfinished() == []
    assert records.asked == 0


async def test_a_slow_socket_loses_progress_alone(hub: Hub):
    """Hundreds of reports later every change of state is still there."""
    with hub.joined("u1") as mailbox:
        hub.tell(task_changed(1, "queued"))
        hub.tell(task_changed(2, "started"))
        for number in range(3, 503):
            hub.tell(task_changed(number))
        hub.tell(task_changed(503, "succeeded"))
        kinds = [kind for kind, _ in told(mailbox)]
    assert len(kinds) == 256
    assert [kind for kind in kinds if kind != "progress"] == ["queued", "started", "succeeded"]
    assert mailbox.ending is None


async def collected(frames: AsyncIterator[Frame | None]) -> list[int]:
    return [frame.sequence async for frame in frames if frame is not None]


async def allowed() -> bool:
    return True


async def test_a_trail_ends_with_its_task(hub: Hub, records: Records, clock: FakeClock):
    """From a sequence number on; from beyond the end there is nothing to tell."""
    records.events["t1"] = list(LIFE)
    stub: Any = records
    trail = Trail(hub, Tasks(stub), clock)
    assert await collected(trail.follow(records.task("t1"), 0, allowed)) == [1, 2, 3, 4]
    assert await collected(trail.follow(records.task("t1"), 2, allowed)) == [3, 4]
    assert await collected(trail.follow(records.task("t1"), 9, allowed)) == []


async def test_a_trail_goes_on_with_the_bus_and_fills_its_gaps(hub: Hub, records: Records, clock: FakeClock):
    """What the bus leaves out is read."""
    records.events["t1"] = ["queued"]
    stub: Any = records
    frames = Trail(hub, Tasks(stub), clock).follow(records.task("t1"), 0, allowed)
    assert await anext(frames) is None
    first = await anext(frames)
    assert first is not None
    hub.tell(task_changed(1, "queued"))
    hub.tell(task_changed(2, "started"))
    second = await anext(frames)
    records.events["t1"] = list(LIFE)
    for room in hub.rooms._rooms.values():
        for mailbox in room:
            mailbox.put(Frame(text="{}", subject="t1", sequence=4))
    rest = await collected(frames)
    assert second is not None
    assert [first.sequence, second.sequence, *rest] == [1, 2, 3, 4]
    assert hub.rooms.sockets == 0


async def test_a_trail_that_cannot_begin_says_so(hub: Hub, records: Records, clock: FakeClock):
    """Before anything is sent, so that the answer has a status."""
    records.events["t1"] = ["queued"]
    stub: Any = records
    frames = Trail(hub, Tasks(stub), clock).follow(records.task("t1"), 0, allowed)
    records.failure = Unavailable()
    with pytest.raises(Unavailable):
        await anext(frames)


async def test_recent_are_those_that_changed_since(records: Records, clock: FakeClock):
    """By any of their times."""
    stub: Any = records
    records.events["t1"] = ["queued"]
    now = clock.now()
    assert await Tasks(stub).recent("u1", now) == ["t1"]
    assert await Tasks(stub).recent("u1", now + timedelta(seconds=1)) == []
