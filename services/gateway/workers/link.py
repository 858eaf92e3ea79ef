"""One worker's socket from accept to close: what is said on it becomes calls, what the tasks service says frames.

A worker that is let go for a fault of its own loses what it holds at once; one whose socket broke has two seconds to
come back to it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from starlette.websockets import WebSocket, WebSocketDisconnect

from chassis.clock import Clock
from chassis.errors import MeshError
from chassis.logging import get_logger
from chassis.messaging.connection import Broker
from chassis.messaging.topology import QueueType
from services.gateway.live.mailbox import GOING_AWAY, NOT_ALLOWED, TOO_SLOW, Ending
from services.gateway.live.session import close
from services.gateway.workers import frames, kinds
from services.gateway.workers.conversation import Conversation, Done
from services.gateway.workers.frames import Plain, ProtocolError, Register
from services.gateway.workers.holdings import Key
from services.gateway.workers.outbox import Outbox, Overflow
from services.gateway.workers.pace import Pace

log = get_logger(__name__)

# Who has not said what it does by then is taken for a worker that only knows tasks and results.
_REGISTER_SECONDS = 2.0
_WRITE_SECONDS = 10.0
_CHECK_SECONDS = 1.0
_FAREWELL_SECONDS = 1.0
DRAINED = Ending(code=1000, reason="Drained")
TAKEN_OVER = Ending(code=4409, reason="Another connection goes on with this session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What a link works with."""

    workers: "tasks_pb2_grpc.WorkerServiceAsyncStub"
    tasks: "tasks_pb2_grpc.TaskServiceAsyncStub"
    broker: Broker
    queue_type: QueueType
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A worker that connects.

    Attributes:
        host: where it comes from, for people.
        unsaid: what it does if it does not say so; the kinds of its address.
        at_once: it will not say so.
    """

    worker_id: str
    host: str
    unsaid: Register
    at_once: bool


class _Over(Exception):
    """The conversation ends; without an ending when the worker has left."""

    def __init__(self, ending: Ending | None) -> None:
        super().__init__()
        self.ending = ending


class Link:
    """One socket.

    Args:
        take_over: told of the session that this socket wants to go on with, before it does.
    """

    def __init__(
        self, behind: Behind, socket: WebSocket, arrival: Arrival, take_over: "Callable[[Link, str], None]"
    ) -> None:
        self._behind = behind
        self._socket = socket
        self._arrival = arrival
        self._take_over = take_over
        self._retiring = False
        self._outbox = Outbox()
        self._pace = Pace()
        self._registered: asyncio.Future[Register] = asyncio.get_running_loop().create_future()
        self._leaving: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._conversation = Conversation(behind.workers, behind.tasks, behind.clock, self._outbox)

    @property
    def session_id(self) -> str | None:
        """Of the session it has now."""
        return self._conversation.session.id

    @property
    def session_ids(self) -> set[str]:
        """Of all sessions that it had."""
        return self._conversation.session.ids

    @property
    def past(self) -> Mapping[Key, bool]:
        """Attempts that its worker held: whether their outcome is stored."""
        return self._conversation.past

    def follow(self, older: "Link") -> None:
        """Goes on where another socket of the same session ends."""
        self.remember(older.past)
        older.leave(TAKEN_OVER)

    def remember(self, past: Mapping[Key, bool]) -> None:
        """What its worker held over a connection before this one."""
        self._conversation.remember(past)

    def leave(self, ending: Ending) -> None:
        """Asks for the end; the first reason stands."""
        if not self._leaving.done():
            self._leaving.set_result(ending)

    async def retire(self, grace_seconds: float) -> None:
        """The process ends: no new work, a while for what is under way, and then the rest goes to other workers."""
        self._retiring = True
        try:
            await self._conversation.retire(grace_seconds)
        except Overflow:
            self.leave(TOO_SLOW)
        self.leave(GOING_AWAY)

    async def run(self, still_allowed: Callable[[], Awaitable[bool]]) -> None:
        """Runs an accepted socket until either side ends it."""
        ending: Ending | None = None
        async with self._conversation.open():
            # A group that fails may leave its task counted as cancelled, and then a timeout in the same task ends as a
            # cancellation that nobody asked for. So the group has a task of its own.
            ending = await asyncio.ensure_future(self._converse(still_allowed))
            # Nobody is at fault for a connection that broke; in the other cases the work goes on elsewhere at once.
            await self._conversation.part(lost=ending in {None, TAKEN_OVER}, until=self._leaving)
        if ending is not None:
            await self._say_farewell(ending)

    async def _converse(self, still_allowed: Callable[[], Awaitable[bool]]) -> Ending | None:
        ending: Ending | None = None
        try:
            async with asyncio.TaskGroup() as group:
                always = (self._read(), self._write(), self._leave(), self._check(still_allowed))
                for work in (*always, self._serve(group)):
                    group.create_task(work)
        except* (_Over, ProtocolError, Overflow, Done, WebSocketDisconnect) as errors:
            ending = self._ending(errors.exceptions)
        return ending

    def _ending(self, errors: "tuple[BaseException, ...]") -> Ending | None:
        """What ended it. A worker that has left hears nothing any more, whatever else happened."""
        if any(isinstance(error, WebSocketDisconnect) for error in errors):
            return None
        for error in errors:
            if isinstance(error, ProtocolError):
                log.info("A worker is let go", worker=self._arrival.worker_id, code=error.code, why=error.message)
                self._outbox.rest()
                self._outbox.put(frames.encode("error", error={"code": error.code, "message": error.message}))
                return Ending(code=error.close, reason=error.code)
            if isinstance(error, Overflow):
                return TOO_SLOW
            if isinstance(error, Done):
                return GOING_AWAY if self._retiring else DRAINED
        first = errors[0]
        return first.ending if isinstance(first, _Over) else None

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            if message.get("text") is None:
                raise ProtocolError("INVALID_FRAME", "Frames are text", close=1003)
            await self._hear(frames.parse(message["text"]))
            pause_seconds = self._pace.take(self._behind.clock.monotonic())
            if pause_seconds is not None:
                await asyncio.sleep(pause_seconds)

    async def _hear(self, said: frames.Said) -> None:
        if isinstance(said, Plain) and said.type == "ping":
            self._outbox.put(frames.encode("pong"))
        elif isinstance(said, Register):
            self._register(said)
        elif self._registered.done():
            await self._conversation.hear(said)
        elif not (isinstance(said, Plain) and said.type == "pong"):
            raise ProtocolError("OUT_OF_ORDER", "The first frame is register")

    def _register(self, said: Register) -> None:
        if self._registered.done():
            raise ProtocolError("OUT_OF_ORDER", "A worker registers once, and first of all")
        self._registered.set_result(said)

    async def _write(self) -> None:
        while True:
            text = await self._outbox.take()
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await self._socket.send_text(text)
            except TimeoutError:
                raise Overflow from None

    async def _leave(self) -> None:
        raise _Over(await asyncio.shield(self._leaving))

    async def _check(self, still_allowed: Callable[[], Awaitable[bool]]) -> None:
        # As for every socket: expiry is a matter of the clock, and of revocations the cache only forgets.
        while await still_allowed():  # noqa: ASYNC110 - as said above
            await asyncio.sleep(_CHECK_SECONDS)
        raise _Over(NOT_ALLOWED)

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        said, bare = await self._what_it_does()
        offers = said.offers()
        await self._check_kinds(offers)
        if said.session_id:
            self._take_over(self, said.session_id)
        announcement = tasks_pb2.OpenSessionRequest(
            worker_name=self._arrival.worker_id,
            host=self._arrival.host,
            kinds=kinds.specs(offers),
            slots=said.slots,
            resume_session_id=said.session_id,
            external=True,
        )
        pointers = self._conversation.pointers(self._behind.broker, self._behind.queue_type)
        group.create_task(pointers.run([spec.group for spec in announcement.kinds], said.slots))
        await self._conversation.run(group, announcement, bare=bare)

    async def _what_it_does(self) -> tuple[Register, bool]:
        try:
            async with asyncio.timeout(0 if self._arrival.at_once else _REGISTER_SECONDS):
                return await asyncio.shield(self._registered), False
        except TimeoutError:
            self._registered.set_result(self._arrival.unsaid)
            return self._arrival.unsaid, True

    async def _check_kinds(self, offers: list[frames.Offer]) -> None:
        try:
            summary = await self._behind.tasks.GetSummary(tasks_pb2.GetSummaryRequest())
        except MeshError:
            # The names of the mesh's own kinds are known without asking.
            kinds.check(offers, ())
            return
        kinds.check(offers, summary.workers)

    async def _say_farewell(self, ending: Ending) -> None:
        """What still waits, an error's explanation among it, and the close."""
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                for text in self._outbox.rest():
                    await self._socket.send_text(text)
        except (TimeoutError, WebSocketDisconnect, RuntimeError) as error:
            log.debug("A worker does not hear why it is let go", worker=self._arrival.worker_id, error=str(error))
            return
        await close(self._socket, ending)
