"""A worker's socket over a tasks service from memory and no broker."""
# ruff: noqa: N802 - the contract names its methods so

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from mesh.tasks.v1 import tasks_pb2
from starlette.websockets import WebSocket

from chassis.errors import NotFound, Unavailable
from services.gateway.workers.admission import arrival
from services.gateway.workers.link import Behind, Link
from services.gateway.workers.links import Links
from tests.support.clock import FakeClock

KIND = "echo"
TASK = "task_01ARZ3NDEKTSV4RRFFQ69G5FAV"


class Service:
    """The tasks service: sessions, what they hold, and what they said."""

    def __init__(self) -> None:
        self.sessions: dict[str, set[tuple[str, int]]] = {}
        self.lost: set[str] = set()
        self.cancelled: set[tuple[str, int]] = set()
        self.outcomes: list[tasks_pb2.Outcome] = []
        self.progress: list[tasks_pb2.ProgressRequest] = []
        self.handed_back: list[tuple[str, int]] = []
        self.closed: list[bool] = []
        self.opened: list[tasks_pb2.OpenSessionRequest] = []
        self.ended: dict[str, int] = {}
        self.state: tasks_pb2.State.ValueType = tasks_pb2.STATE_SUCCEEDED
        self.reported: set[tuple[str, tuple[str, int]]] = set()
        # So many answers to outcomes get lost after their commit.
        self.unheard = 0
        self.failures: list[Exception] = []
        self.taken_over = asyncio.Event()

    async def OpenSession(self, request: Any, **_: Any) -> Any:
        if self.failures:
            raise self.failures.pop()
        self.opened.append(tasks_pb2.OpenSessionRequest.FromString(request.SerializeToString()))
        wanted = request.resume_session_id
        resumed = wanted in self.sessions and wanted not in self.lost
        session_id = wanted if resumed else f"ses_{len(self.sessions) + 1}"
        self.sessions.setdefault(session_id, set())
        return tasks_pb2.OpenSessionResponse(
            session_id=session_id, lease_seconds=10, heartbeat_seconds=1, resumed=resumed
        )

    async def Heartbeat(self, request: Any, **_: Any) -> Any:
        held = self._held(request.session_id)
        return tasks_pb2.HeartbeatResponse(held=_pointers(held), cancelled=_pointers(held & self.cancelled))

    async def WatchSession(self, request: Any, **_: Any) -> AsyncIterator[Any]:
        self._held(request.session_id)
        yield tasks_pb2.WatchSessionResponse()
        await self.taken_over.wait()

    async def Claim(self, request: Any, **_: Any) -> Any:
        return tasks_pb2.ClaimResponse()

    async def Finish(self, request: Any, **_: Any) -> Any:
        if self.failures:
            raise self.failures.pop()
        held = self._held(request.session_id)
        stale = []
        for outcome in request.outcomes:
            key = outcome.task_id, outcome.attempt
            if key in held:
                held.discard(key)
                self.outcomes.append(outcome)
                self.reported.add((request.session_id, key))
            elif (request.session_id, key) not in self.reported:
                stale.append(key)
        if self.unheard:
            self.unheard -= 1
            raise Unavailable
        return tasks_pb2.FinishResponse(stale=_pointers(stale))

    async def Progress(self, request: Any, **_: Any) -> Any:
        self.progress.append(request)
        return tasks_pb2.ProgressResponse(
            stale=(request.task_id, request.attempt) not in self._held(request.session_id)
        )

    async def HandBack(self, request: Any, **_: Any) -> Any:
        keys = [(pointer.task_id, pointer.attempt) for pointer in request.attempts]
        self.handed_back += keys
        self._held(request.session_id).difference_update(keys)
        return tasks_pb2.HandBackResponse()

    async def CloseSession(self, request: Any, **_: Any) -> Any:
        self.closed.append(request.drain)
        return tasks_pb2.CloseSessionResponse()

    async def GetTask(self, request: Any, **_: Any) -> Any:
        if request.id not in self.ended:
            raise NotFound("Task not found")
        task = tasks_pb2.Task(id=request.id, attempt=self.ended[request.id], state=self.state)
        return tasks_pb2.GetTaskResponse(task=task)

    async def GetSummary(self, request: Any, **_: Any) -> Any:
        taken = tasks_pb2.WorkerSummary(name="agents", kinds=["billing"])
        return tasks_pb2.GetSummaryResponse(workers=[taken])

    def _held(self, session_id: str) -> set[tuple[str, int]]:
        if session_id in self.lost or session_id not in self.sessions:
            raise NotFound("The session is over", code="SESSION_LOST")
        return self.sessions[session_id]


def _pointers(keys: Any) -> list[tasks_pb2.Pointer]:
    return [tasks_pb2.Pointer(task_id=task_id, attempt=attempt) for task_id, attempt in keys]


class NoBroker:
    """A broker that is away."""

    async def wait_connected(self, use: Any) -> None:
        await asyncio.Event().wait()


class Worker:
    """The other end of a socket."""

    def __init__(self, service: Service, *, links: Links | None = None, query: str = "", clock: Any = None) -> None:
        self.service = service
        self.clock = clock or FakeClock()
        stub: Any = service
        broker: Any = NoBroker()
        behind = Behind(workers=stub, tasks=stub, broker=broker, queue_type="classic", clock=self.clock)
        self.links = links or Links(behind, 2.0)
        self._query = dict(part.split("=") for part in query.split("&") if part)
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self._said.put_nowait({"type": "websocket.connect"})
        self.heard: list[Any] = []
        self.closed: tuple[int, str] | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self._more = asyncio.Event()
        self._cursor = 0

    async def connect(self) -> "Worker":
        socket = WebSocket({"type": "websocket"}, self._said.get, self._send)
        await socket.accept()

        async def allowed() -> bool:
            return True

        arrived = arrival("3", "127.0.0.1", self._query)
        self.session = asyncio.ensure_future(self.links.serve(socket, arrived, allowed))
        return self

    @property
    def link(self) -> Link:
        return next(iter(self.links._links))

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "websocket.send":
            self.heard.append(json.loads(message["text"]))
        elif message["type"] == "websocket.close":
            self.closed = message["code"], message.get("reason") or ""
        self._more.set()

    def say(self, kind: str = "", **fields: Any) -> None:
        frame = {"type": kind, **fields} if kind else fields
        self.say_text(json.dumps(frame))

    def say_text(self, text: str) -> None:
        self._said.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def hear(self, kind: str) -> Any:
        """The next frame of that type."""
        async with asyncio.timeout(30):
            while True:
                while self._cursor < len(self.heard):
                    frame = self.heard[self._cursor]
                    self._cursor += 1
                    if frame["type"] == kind:
                        return frame
                self._more.clear()
                await self._more.wait()

    async def register(self, **fields: Any) -> Any:
        self.say("register", kinds=[KIND], **fields)
        return await self.hear("registered")

    def assign(self, task_id: str = TASK, attempt: int = 1) -> None:
        """As if it had been claimed."""
        session_id = self.link.session_id or ""
        self.service.sessions[session_id].add((task_id, attempt))
        claimed = tasks_pb2.Claimed(task_id=task_id, attempt=attempt, kind=KIND, payload=b'{"x":1}', timeout_seconds=30)
        self.link._conversation._start(session_id, [claimed], set())

    async def wait(self, seconds: float) -> None:
        """Lets time pass as it passes for a process that runs."""
        for _ in range(round(seconds)):
            self.clock.advance(1.0)
            await asyncio.sleep(0.03)

    async def until_closed(self) -> tuple[int, str] | None:
        async with asyncio.timeout(30):
            await self.session
        return self.closed
