"""The tasks service and the broker, as the worker sees them, in memory."""
# ruff: noqa: N802, ASYNC109 - the contract's names and grpc's own keyword

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiormq.abc import DeliveredMessage
from mesh.tasks.v1 import tasks_pb2 as pb
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from chassis.errors import MeshError, NotFound, Unavailable
from chassis.messaging.delivery import Delivery, Unsettled
from chassis.messaging.message import WORK, Message
from worker.feed import Take

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


class FakeTasks:
    """Grants whatever is claimed, remembers what it is told, and raises what it is given to raise."""

    def __init__(self) -> None:
        self.payloads: dict[str, bytes] = {}
        self.kind = "work"
        self.timeout_seconds = 60
        self.failures: dict[str, list[MeshError]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.held: dict[tuple[str, int], str] = {}
        self.outcomes: dict[tuple[str, int], pb.Outcome] = {}
        self.cancelled: list[tuple[str, int]] = []
        self.sessions = 0
        self.alive: set[str] = set()
        # Keys to push to a session; None ends its stream.
        # A claim whose answer stays under way until this is set; what it grants is decided before.
        self.answer_claims = asyncio.Event()
        self.answer_claims.set()
        # The same for outcomes, which have their effect before.
        self.answer_outcomes: asyncio.Event | None = None
        self.streams: dict[str, asyncio.Queue[list[tuple[str, int]] | None]] = {}
        # False: as one of an earlier release.
        self.takes_offers = True
        # Whether a word that takes slots back is answered; whether a stream outlives its worker's last word, and asks
        # for more after its own end.
        self.confirms = True
        self.lasts = False
        self.hangs = False
        self.asking: list[asyncio.Task[None]] = []
        # Answers to push on a session's stream of offers; None ends it, an error breaks it.
        self.offers: dict[str, asyncio.Queue[pb.OfferResponse | MeshError | None]] = {}
        self.changed = asyncio.Event()

    def _note(self, method: str, request: Any) -> None:
        self.calls.append((method, request))
        self.changed.set()
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def called(self, method: str) -> list[Any]:
        """The requests of a method, in order."""
        return [request for name, request in self.calls if name == method]

    async def until(self, condition: Any) -> None:
        """Waits until the condition holds; looked at after every call and every turn of the loop."""
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0)

    async def OpenSession(self, request: pb.OpenSessionRequest, timeout: float) -> pb.OpenSessionResponse:
        self._note("OpenSession", request)
        self.sessions += 1
        self.alive.add(f"s{self.sessions}")
        return pb.OpenSessionResponse(session_id=f"s{self.sessions}", lease_seconds=3600, heartbeat_seconds=3600)

    async def Heartbeat(self, request: pb.HeartbeatRequest, timeout: float) -> pb.HeartbeatResponse:
        self._note("Heartbeat", request)
        if request.session_id not in self.alive:
            raise NotFound(code="SESSION_LOST")
        held = [
            pb.Pointer(task_id=key[0], attempt=key[1]) for key, one in self.held.items() if one == request.session_id
        ]
        cancelled = [pb.Pointer(task_id=key[0], attempt=key[1]) for key in self.cancelled]
        return pb.HeartbeatResponse(held=held, cancelled=cancelled)

    async def WatchSession(self, request: pb.WatchSessionRequest) -> AsyncIterator[pb.WatchSessionResponse]:
        self._note("WatchSession", request)
        if request.session_id not in self.alive:
            raise NotFound(code="SESSION_LOST")
        stops = self.streams[request.session_id] = asyncio.Queue()
        yield pb.WatchSessionResponse()
        while (keys := await stops.get()) is not None:
            yield pb.WatchSessionResponse(cancelled=[pb.Pointer(task_id=key[0], attempt=key[1]) for key in keys])

    async def Offer(self, requests: AsyncIterator[pb.OfferRequest]) -> AsyncIterator[pb.OfferResponse]:
        first = await anext(requests)
        self._note("Offer", first)
        if not self.takes_offers:
            raise Unavailable
        if first.session_id not in self.alive:
            raise NotFound(code="SESSION_LOST")
        pushed = self.offers[first.session_id] = asyncio.Queue()
        listening = asyncio.ensure_future(self._hear(first.most, requests, pushed))
        try:
            if not self.hangs:
                yield pb.OfferResponse(most=first.most, heard=1)
            while isinstance(response := await pushed.get(), pb.OfferResponse):
                yield response
            if response is not None:
                raise response
        finally:
            if self.lasts:
                self.asking.append(listening)
            else:
                listening.cancel()
                await asyncio.wait({listening})

    async def _hear(self, most: int, requests: AsyncIterator[pb.OfferRequest], pushed: asyncio.Queue[Any]) -> None:
        heard = 1
        async for request in requests:
            heard += 1
            self._note("Offer", request)
            if request.most < most and self.confirms:
                pushed.put_nowait(pb.OfferResponse(most=request.most, heard=heard))
            most = request.most
        if not self.lasts:
            pushed.put_nowait(None)

    async def Claim(self, request: pb.ClaimRequest, timeout: float) -> pb.ClaimResponse:
        self._note("Claim", request)
        if request.session_id not in self.alive:
            raise NotFound(code="SESSION_LOST")
        claimed = []
        for pointer in request.pointers:
            self.held[pointer.task_id, pointer.attempt + 1] = request.session_id
            claimed.append(
                pb.Claimed(
                    task_id=pointer.task_id,
                    attempt=pointer.attempt + 1,
                    pointer_attempt=pointer.attempt,
                    kind=self.kind,
                    payload=self.payloads.get(pointer.task_id, b"{}"),
                    timeout_seconds=self.timeout_seconds,
                )
            )
        await self.answer_claims.wait()
        return pb.ClaimResponse(claimed=claimed)

    async def Finish(self, request: pb.FinishRequest, timeout: float) -> pb.FinishResponse:
        self._note("Finish", request)
        for outcome in request.outcomes:
            key = (outcome.task_id, outcome.attempt)
            if self.held.pop(key, None) is not None:
                self.outcomes[key] = outcome
        if self.answer_outcomes is not None:
            await self.answer_outcomes.wait()
        return pb.FinishResponse()

    async def Progress(self, request: pb.ProgressRequest, timeout: float) -> pb.ProgressResponse:
        self._note("Progress", request)
        return pb.ProgressResponse(stale=(request.task_id, request.attempt) not in self.held)

    async def HandBack(self, request: pb.HandBackRequest, timeout: float) -> pb.HandBackResponse:
        self._note("HandBack", request)
        for pointer in request.attempts:
            self.held.pop((pointer.task_id, pointer.attempt), None)
        return pb.HandBackResponse()

    async def CloseSession(self, request: pb.CloseSessionRequest, timeout: float) -> pb.CloseSessionResponse:
        self._note("CloseSession", request)
        if not request.drain:
            self.alive.discard(request.session_id)
        return pb.CloseSessionResponse()


class FakeChannel:
    """Remembers whether anything was acknowledged."""

    acked = False

    async def basic_ack(self, _tag: int, **_options: object) -> None:
        self.acked = True


class FakeDelivery(Delivery):
    """Pointers from nowhere, the only message of its channel."""

    def __init__(self, *task_ids: str, attempt: int = 0, body: bytes | None = None) -> None:
        pointers = [pb.Pointer(task_id=task_id, attempt=attempt) for task_id in task_ids]
        given = pb.Pointers(pointers=pointers).SerializeToString() if body is None else body
        message = Message(exchange=WORK, routing_key="work.test.p2", type="", body=given, id="m", time=_NOW, source="")
        self.fake = FakeChannel()
        frame = Basic.Deliver("tag", 1, exchange=WORK, routing_key="work.test.p2")
        received = DeliveredMessage(delivery=frame, header=ContentHeader(), body=given, channel=self.fake)  # type: ignore[arg-type]  # as much of a channel as is used
        unsettled = Unsettled(self.fake)  # type: ignore[arg-type]  # as above
        super().__init__(message, "work.test.p2", received, None, unsettled)  # type: ignore[arg-type]  # nothing is parked

    @property
    def acked(self) -> bool:
        return self.fake.acked


class FakeFeed:
    """Hands over what a test pushes, while it is open."""

    group = "test"

    def __init__(self) -> None:
        self.opened = 0
        self.take: Take | None = None

    @asynccontextmanager
    async def open(self, take: Take) -> AsyncIterator[None]:
        self.opened += 1
        self.take = take
        try:
            yield
        finally:
            self.take = None

    async def push(self, *messages: str | Sequence[str], priority_class: int = 2) -> list[FakeDelivery]:
        """A delivery for each message: the task of its only pointer, or the tasks of all."""
        deliveries = [FakeDelivery(*([one] if isinstance(one, str) else one)) for one in messages]
        while self.take is None:
            await asyncio.sleep(0)
        for delivery in deliveries:
            self.take(delivery, priority_class)
        return deliveries
