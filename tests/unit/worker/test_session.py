"""One session after the other."""

import asyncio

from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.errors import Unavailable
from tests.unit.worker.fakes import FakeTasks
from worker.session import Callbacks, Sessions


class Owner:
    """Writes down what it is told."""

    def __init__(self, tasks: FakeTasks) -> None:
        self.told: list[str] = []
        on = Callbacks(opened=self._opened, running=set, beaten=self._beaten, stop=self._stop, lost=self._lost)
        self.sessions = Sessions(tasks, pb.OpenSessionRequest(worker_name="w"), on)  # type: ignore[arg-type]  # a stub by its methods

    def _opened(self, session_id: str) -> None:
        self.told.append(f"opened {session_id}")

    async def _beaten(self, before: set[tuple[str, int]], response: pb.HeartbeatResponse) -> None:
        del before, response
        self.told.append("beaten")

    def _stop(self, key: tuple[str, int]) -> None:
        self.told.append(f"stop {key[0]} {key[1]}")

    def _lost(self, session_id: str) -> None:
        self.told.append(f"lost {session_id}")


async def test_a_session_is_opened_as_soon_as_somebody_answers():
    """An outage at the start only delays."""
    tasks = FakeTasks()
    tasks.failures["OpenSession"] = [Unavailable()]
    owner = Owner(tasks)
    running = asyncio.ensure_future(owner.sessions.run())
    await tasks.until(lambda: owner.sessions.current == "s1")
    running.cancel()
    assert owner.told[0] == "opened s1"


async def test_an_outage_does_not_end_a_session():
    """Only the service's word does: an unanswered heartbeat is no loss."""
    tasks = FakeTasks()
    owner = Owner(tasks)
    tasks.alive.add("s0")
    tasks.failures["Heartbeat"] = [Unavailable()]
    assert await owner.sessions.beat("s0")
    assert await owner.sessions.beat("s0")
    tasks.alive.clear()
    assert not await owner.sessions.beat("s0")
    assert owner.told == ["beaten"]


async def test_no_session_follows_after_a_drain():
    """The one that is lost while the process ends stays the last one."""
    tasks = FakeTasks()
    owner = Owner(tasks)
    running = asyncio.ensure_future(owner.sessions.run())
    await tasks.until(lambda: owner.sessions.current == "s1")
    await owner.sessions.drain()
    tasks.alive.clear()
    owner.sessions.suspect()
    await running
    assert (tasks.sessions, owner.told[-1]) == (1, "lost s1")


async def test_a_stream_that_ends_is_opened_anew_and_tells_what_to_stop():
    """An end is no loss, whether with a word or without."""
    tasks = FakeTasks()
    owner = Owner(tasks)
    running = asyncio.ensure_future(owner.sessions.run())
    await tasks.until(lambda: "s1" in tasks.streams)
    first = tasks.streams.pop("s1")
    tasks.failures["WatchSession"] = [Unavailable()]
    first.put_nowait(None)
    await tasks.until(lambda: "s1" in tasks.streams)
    tasks.streams["s1"].put_nowait([("a", 1)])
    await tasks.until(lambda: "stop a 1" in owner.told)
    assert owner.sessions.current == "s1"
    assert len(tasks.called("WatchSession")) == 3
    running.cancel()


async def test_a_stream_that_hears_of_a_loss_has_the_session_asked():
    """The heartbeat's answer decides, at once and not an hour later; the new session has a stream of its own."""
    tasks = FakeTasks()
    owner = Owner(tasks)
    running = asyncio.ensure_future(owner.sessions.run())
    await tasks.until(lambda: "s1" in tasks.streams)
    tasks.alive.clear()
    tasks.streams["s1"].put_nowait(None)
    await tasks.until(lambda: "s2" in tasks.streams)
    assert "lost s1" in owner.told
    running.cancel()
