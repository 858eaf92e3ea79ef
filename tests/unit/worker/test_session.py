"""One session after the other."""

import asyncio

from mesh.tasks.v1 import tasks_pb2 as pb

from chassis.errors import Unavailable
from tests.unit.worker.fakes import FakeTasks
from worker.lease import Holder
from worker.session import Callbacks, Sessions


class Owner:
    """Writes down what it is told."""

    def __init__(self, tasks: FakeTasks) -> None:
        self.told: list[str] = []
        holder = Holder(holds=set, cancelled=self._stop, beaten=self._beaten)
        on = Callbacks(opened=self._opened, lost=self._lost)
        request = pb.OpenSessionRequest(worker_name="w")
        self.sessions = Sessions(tasks, request, holder, on)  # type: ignore[arg-type]  # a stub by its methods

    def _opened(self, session_id: str) -> None:
        self.told.append(f"opened {session_id}")

    async def _beaten(self, before: set[tuple[str, int]], held: set[tuple[str, int]]) -> None:
        del before, held
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
    tasks.failures["Heartbeat"] = [Unavailable()]
    running = asyncio.ensure_future(owner.sessions.run())
    await tasks.until(lambda: not tasks.failures["Heartbeat"])
    owner.sessions.suspect()
    await tasks.until(lambda: "beaten" in owner.told)
    assert (owner.sessions.current, owner.told) == ("s1", ["opened s1", "beaten"])
    tasks.alive.clear()
    owner.sessions.suspect()
    await tasks.until(lambda: "lost s1" in owner.told)
    running.cancel()


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
